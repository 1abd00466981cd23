"""The leased rollout replicas: which are alive, which weights they hold, and sending them the
current ones.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import structlog

from services.common.errors import PlatformError
from services.common.job_metrics import JobMetric
from services.common.pb.dirl.v1 import rollout_pb2, rollout_pb2_grpc
from services.common.rpc.client import call, channel
from services.trainer.learner.journal import Reporter
from services.trainer.learner.weight_snapshot import WeightSnapshot
from services.trainer.learner.weight_sync import Publication, publish

_STATUS_TIMEOUT_S: Final = 5.0
_SLEEP_TIMEOUT_S: Final = 60.0
_CHECK_EVERY_S: Final = 3.0
_ALL_GONE_S: Final = 60.0
_NO_PROGRESS_S: Final = 600.0
_MAX_FAILED_PUSHES: Final = 5

Status = rollout_pb2.GetRolloutStatusResponse
log = structlog.get_logger()


class Replicas:
    """Watches the replicas of one attempt.

    `rollout_unavailable` is raised after a minute in which none was assigned to this attempt and
    answering; `deadline_exceeded` after ten minutes in which replicas answered but generated
    nothing while prompts waited.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        job_id: str,
        attempt: int,
        report: Reporter,
        *,
        clock: Callable[[], float] = time.monotonic,
        all_gone_s: float = _ALL_GONE_S,
    ) -> None:
        self._addresses, self._job_id, self._attempt = tuple(addresses), job_id, attempt
        self._report, self._clock, self._all_gone_s = report, clock, all_gone_s
        self._channels = {address: channel(address) for address in self._addresses}
        self._last_alive = self._last_progress = clock()
        self._next_check = 0.0
        self._holding = 0
        self._failed_pushes = 0
        self._pusher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="renew")
        self._pushing: Future[Publication] | None = None
        self._decoding = 0
        self._ours: frozenset[str] = frozenset()
        """Replicas that were assigned to this attempt and answering when last asked."""
        self._failed_parity: dict[str, int] = {}
        """Weight version whose probe a replica did not reproduce, by address; it waits for the next
        one.
        """
        self._last_error: PlatformError | None = None
        self._generated: dict[str, int] = {}
        self._busy: dict[str, float] = {}
        self.last_publication: Publication | None = None

    def supply(self, weights: WeightSnapshot) -> int:
        """Push the weights to every assigned replica that can take them and does not hold them;
        returns how many do.

        A replica that does not reproduce the weights' parity probe is left out until the next
        version. Raises `parity_violation` when that leaves none, the replica's own error once every
        push has failed several times in a row, and what `watch` raises.
        """
        self._finish_push()
        statuses = self._statuses()
        lacking = self._lacking(statuses, weights.version)
        holding = sum(_holds(status, weights.version) for status in statuses.values())
        if lacking:
            self._report.phase("weight_sync")
            with self._report.record_time(JobMetric.TIME_WEIGHT_SYNC_S):
                publication = self._publish(lacking, weights)
            self._record_publication(publication)
            holding += len(publication.loaded)
        self._require_progress()
        return holding

    def renew(self, weights: WeightSnapshot) -> int:
        """Like `supply`, but a copy of the weights is pushed in the background; the caller may change
        them meanwhile.

        One version travels at a time; a later call begins the newest. Returns how many replicas
        decode, under any version.
        """
        if self._pushing is None or self._pushing.done():
            self._finish_push()
            statuses = self._statuses()
            self._decoding = sum(status.state == "ready" for status in statuses.values())
            # Cloned: the optimizer changes the parameters in place while the copy is on the wire.
            if lacking := self._lacking(statuses, weights.version):
                copied = replace(
                    weights, tensors={name: each.clone() for name, each in weights.tensors.items()}
                )
                self._pushing = self._pusher.submit(self._publish, lacking, copied)
        self._require_progress()
        return self._decoding

    def watch(self, weights: WeightSnapshot, *, overlapped: bool) -> int:
        """Call `supply`, or `renew` when rollouts are `overlapped` with training, every few
        seconds; returns the last result.

        A restarted replica gets its weights again in this way, and a wait that cannot end well
        ends.
        """
        if self._clock() >= self._next_check:
            self._next_check = self._clock() + _CHECK_EVERY_S
            self._holding = self.renew(weights) if overlapped else self.supply(weights)
        return self._holding

    def sleep(self) -> int:
        """Have every replica release its device memory until weights are pushed again; returns the
        bytes of all.

        Raises what the replicas answer, `rollout_unavailable` when one does not.
        """
        request = rollout_pb2.SleepRequest(job_id=self._job_id, attempt=self._attempt)
        freed = 0
        for address in self._ours:
            freed += call(
                rollout_pb2_grpc.RolloutServiceStub(self._channels[address]).Sleep,
                request,
                timeout_s=_SLEEP_TIMEOUT_S,
                what=f"Sending replica {address} to sleep",
                unavailable_code="rollout_unavailable",
            ).freed_bytes
        return freed

    def poll(self) -> None:
        """Ask every replica for its status; raises `rollout_unavailable` like `watch`."""
        self._statuses()

    def note_progress(self) -> None:
        """Restart the wait for progress: a group arrived, or prompts were issued."""
        self._last_progress = self._clock()

    @property
    def count(self) -> int:
        """Replicas leased."""
        return len(self._addresses)

    def busy_seconds(self) -> float:
        """Time the replicas' engines have computed, as last reported."""
        return sum(self._busy.values())

    def close(self) -> None:
        """Close the channels, once what is being pushed has arrived or failed."""
        self._pusher.shutdown()
        for connection in self._channels.values():
            connection.close()

    def _publish(self, addresses: Sequence[str], weights: WeightSnapshot) -> Publication:
        return publish(
            addresses, self._job_id, self._attempt, weights.version, weights.tensors, weights.probe
        )

    def _finish_push(self) -> None:
        """Wait for a push in the background, and record its result."""
        # One push at a time: two would race to load different versions into one replica.
        pushing, self._pushing = self._pushing, None
        if pushing is not None:
            self._record_publication(pushing.result())

    def _lacking(self, statuses: Mapping[str, Status], version: int) -> list[str]:
        """Replicas that can take the version, do not hold it, and did not fail to reproduce its
        probe.
        """
        wanting = [
            address
            for address, status in statuses.items()
            # A replica that still builds its model takes no weights yet.
            if status.state not in ("idle", "loading") and not _holds(status, version)
        ]
        return [address for address in wanting if self._failed_parity.get(address) != version]

    def _statuses(self) -> dict[str, Status]:
        """Status of every replica that answers and is assigned to this attempt."""
        with ThreadPoolExecutor(
            max_workers=max(1, len(self._addresses)), thread_name_prefix="status"
        ) as pool:
            responses = dict(
                zip(self._addresses, pool.map(self._status, self._addresses), strict=True)
            )
        ours = {
            address: status
            for address, status in responses.items()
            if status is not None
            and (status.job_id, status.attempt) == (self._job_id, self._attempt)
        }
        self._ours = frozenset(ours)
        now = self._clock()
        for address, status in ours.items():
            if status.generated_tokens != self._generated.get(address):
                self._last_progress = now
            self._generated[address] = status.generated_tokens
            self._busy[address] = status.busy_s
        if ours:
            self._last_alive = now
        self._require_alive(now - self._last_alive)
        return ours

    def _require_alive(self, seconds: float) -> None:
        """Raise `rollout_unavailable` when no replica was alive for too long."""
        if seconds <= self._all_gone_s:
            return
        last = "" if self._last_error is None else f" Last failure: {self._last_error.message}"
        raise PlatformError(
            "rollout_unavailable",
            f"None of the {len(self._addresses)} rollout replicas ({', '.join(self._addresses)}) was assigned to "
            f"{self._job_id} attempt {self._attempt} and answering for {seconds:.0f} s.{last}",
            hint="Start the rollout service.",
        )

    def _status(self, address: str) -> Status | None:
        stub = rollout_pb2_grpc.RolloutServiceStub(self._channels[address])
        try:
            return call(
                stub.GetStatus,
                rollout_pb2.GetRolloutStatusRequest(),
                timeout_s=_STATUS_TIMEOUT_S,
                what=f"Asking replica {address} for its status",
                unavailable_code="rollout_unavailable",
            )
        except PlatformError as error:
            self._last_error = error
            return None

    def _require_progress(self) -> None:
        seconds = self._clock() - self._last_progress
        if seconds > _NO_PROGRESS_S:
            raise PlatformError(
                "deadline_exceeded",
                f"Waited {seconds:.0f} s for rollouts while no replica generated a token.",
                hint="Look at the rollout service's log.",
            )

    def _record_publication(self, publication: Publication) -> None:
        self.last_publication = publication
        self._failed_pushes = 0 if publication.loaded else self._failed_pushes + 1
        for address, error in publication.failed.items():
            self._last_error = error
            message = f"Replica {address} did not take weight version {publication.weight_version}: {error.message}"
            # Not retried under this version: the replica's arithmetic or memory is wrong, and the same
            # weights would fail again.
            unlike = error.code == "parity_violation"
            self._report.journal.say(
                "error" if unlike else "warning", error.code, message, replica=address
            )
            if unlike:
                self._failed_parity[address] = publication.weight_version
        if self._ours and all(
            self._failed_parity.get(address) == publication.weight_version for address in self._ours
        ):
            raise next(iter(publication.failed.values()))
        if self._failed_pushes >= _MAX_FAILED_PUSHES:
            raise next(iter(publication.failed.values()))
        if publication.loaded:
            log.info(
                "weights published",
                weight_version=publication.weight_version,
                replicas=len(publication.loaded),
                bytes=publication.num_bytes,
                seconds=round(publication.seconds, 3),
            )


def _holds(status: Status, weight_version: int) -> bool:
    return status.weight_version == weight_version and status.state not in ("unhealthy", "sleeping")
