"""Jobs that are hurt: a platform of real processes, a job in the middle of reinforcement learning,
and what it became.

Every fault is one function of `tests/e2e/faults`; here is what they share.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest
import redis

from services.api.client import ApiClient, Json
from services.api.embedded.platform import LocalPlatform
from services.api.schemas.jobs import JobView
from services.common.streams import StreamNames, stream_names
from tests.support.embedded import local_platform, tiny_spec, watch

STEPS = 8
ENDS = ("succeeded", "failed", "cancelled")
ABOUT_STEPS = {
    "balanced", "rollout_bound", "trainer_bound", "sync_bound", "verifier_bound", "verifier_failing", "starved",
    "truncation_limited",
}  # fmt: skip
"""Diagnoses that speak of the last steps: false while none is made."""
UNTRUE_AFTER_S = 25.0
UNTRUE_AFTER_STEPS = 3.0
"""After so many seconds, and so many times the length of the last step, without one such a diagnosis
is a lie. The API counts from 15 s and learns of a step a moment later.
"""


@dataclass(frozen=True)
class Seen:
    """What a user sees of a job: the API's answers, from which the dashboard draws its page."""

    at: float
    state: str
    step: int
    diagnosis: str
    waiting_for: str | None
    has_retry: bool
    step_s: float
    """Length of the last step."""

    def __str__(self) -> str:
        waits = f", waiting for {self.waiting_for}" if self.waiting_for else ""
        return f"{self.state}: {self.diagnosis}{waits}"


@dataclass
class Observer:
    """Looks at a job twice a second, in a thread of its own."""

    api_url: str
    job_id: str
    seen: list[Seen] = field(default_factory=list)
    _over: Event = field(default_factory=Event)

    def __enter__(self) -> "Observer":
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def require_truth(self) -> None:
        """No finding about steps while none is made; no delay that is not one; success only at the end."""
        assert self.seen, "nothing was seen of the job"
        last_step = self.seen[0]
        for now in self.seen:
            if now.step != last_step.step or now.state != "running":
                last_step = now
            silent_s = now.at - last_step.at
            is_late = silent_s > UNTRUE_AFTER_S + UNTRUE_AFTER_STEPS * now.step_s
            assert not is_late or now.diagnosis not in ABOUT_STEPS, (silent_s, now)
            assert not now.has_retry or now.state == "provisioning", now
            assert now.state != "succeeded" or now.step == STEPS, now

    def summary(self) -> str:
        """What was said, in order, without repetitions."""
        said = [name for name, _ in groupby(map(str, self.seen))]
        return "; ".join(dict.fromkeys(said))

    def _watch(self) -> None:
        with ApiClient(self.api_url) as api:
            while not self._over.wait(0.5):
                try:
                    job = api.job(self.job_id)
                    diagnosis = api.diagnosis(self.job_id)
                except Exception:  # noqa: BLE001 - the fault may be the API's own
                    continue
                self.seen.append(
                    Seen(
                        at=time.monotonic(),
                        state=job.state,
                        step=0 if job.progress is None else job.progress.step,
                        diagnosis=diagnosis.code,
                        waiting_for=job.waiting_for,
                        has_retry=job.retry_at is not None,
                        step_s=job.latest_metrics.get("time/step_s", 0.0),
                    )
                )


@dataclass
class Report:
    """One line of the table in docs/operations.md."""

    fault: str
    happened: str
    recovery_s: float
    """From the fault to the next optimizer step."""
    certificate: str
    meanwhile: str
    """What the API said of the job from the fault to the end."""

    def row(self) -> str:
        """Markdown."""
        return (
            f"| {self.fault} | {self.happened} | {self.recovery_s:.1f} | {self.certificate} | "
            f"{self.meanwhile} |"
        )


@dataclass
class Arena:
    """A running platform, and the spec that every job of the suite has."""

    platform: LocalPlatform
    api: ApiClient
    spec: Json
    reports: list[Report] = field(default_factory=list)
    _undisturbed: dict[int, str] = field(default_factory=dict)

    def start(self, *, replicas: int = 1, spec: Json | None = None) -> "HurtJob":
        """A job in the middle of its steps."""
        wanted = {**(spec or self.spec), "resources": {"rollout_replicas": replicas}}
        job = HurtJob(self, self.api.create_job(wanted).id)
        job.await_step(2)
        return job

    def undisturbed_digests(self) -> dict[int, str]:
        """Digests of the weights after every step when nothing happens; computed once.

        Every step must move the weights: equal digests would otherwise prove nothing.
        """
        if not self._undisturbed:
            job = HurtJob(self, self.api.create_job(self.spec).id)
            job.finish()
            digests = dict(job.saved_digests())
            assert sorted(digests) == list(range(1, STEPS + 1))
            assert len(set(digests.values())) == STEPS, "a step left the weights as they were"
            self._undisturbed = digests
        return self._undisturbed

    def process(self, service: str) -> psutil.Process:
        """A service of the platform."""
        return psutil.Process(self.platform.pids()[service])

    def await_services(self, *services: str) -> None:
        """Wait until the supervisor has started them again and the API answers."""
        deadline = time.monotonic() + 60
        while not set(services) <= self.platform.pids().keys() or not self._api_is_ready():
            assert time.monotonic() < deadline, f"{services} did not come back"
            time.sleep(0.1)

    def redis(self) -> redis.Redis:
        """The platform's queue."""
        return redis.Redis.from_url(self.platform.urls.redis)

    def leftovers(self) -> list[str]:
        """Streams of attempts that still exist."""
        with self.redis() as client:
            return [key.decode() for key in client.scan_iter(match="dirl:job_*")]

    def learners(self) -> list[psutil.Process]:
        """Learners that run."""
        found = []
        for child in self.process("trainer").children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended, or is a zombie
                if "services.trainer.learner" in child.cmdline():
                    found.append(child)
        return found

    def _api_is_ready(self) -> bool:
        try:
            return self.api.ready()
        except Exception:  # noqa: BLE001 - it is being started
            return False


@dataclass
class HurtJob:
    """A job that something happens to."""

    arena: Arena
    id: str
    hurt_at: float = 0.0
    hurt_step: int = 0
    observer: Observer | None = None

    @property
    def directory(self) -> Path:
        """Checkpoints, journal, logs."""
        return self.arena.platform.data_dir / "jobs" / self.id

    @property
    def streams(self) -> StreamNames:
        """Of the newest attempt."""
        return stream_names(self.id, self.read().attempt)

    def read(self) -> JobView:
        """The job; an API that is being restarted is waited for."""
        return patiently(lambda: self.arena.api.job(self.id))

    def step(self) -> int:
        """Optimizer steps done."""
        progress = self.read().progress
        return 0 if progress is None else progress.step

    def await_step(self, step: int) -> None:
        """Wait for so many optimizer steps."""
        deadline = time.monotonic() + 180
        while self.step() < step:
            job = self.read()
            assert job.state not in ENDS, job.error
            assert time.monotonic() < deadline, job
            time.sleep(0.05)

    def learner(self) -> psutil.Process:
        """The one learner that runs."""
        (learner,) = self.arena.learners()
        return learner

    def hurt(self) -> None:
        """Note the moment of the fault."""
        self.hurt_step, self.hurt_at = self.step(), time.monotonic()
        self.observer = Observer(self.arena.platform.api_url, self.id).__enter__()

    def finish(self) -> JobView:
        """Wait for success."""
        return patiently(
            lambda: watch(self.arena.api, self.id, lambda job: job.state == "succeeded")
        )

    def events(self, kind: str) -> list[Json]:
        """Data of every event of a type."""
        return [event.data for event in self.arena.api.events(self.id) if event.type == kind]

    def saved_digests(self) -> list[tuple[int, str]]:
        """Step and weight digest of every checkpoint that was written; a step that was undone and
        repeated is listed again.
        """
        return [(data["step"], data["weight_digest"]) for data in self.events("checkpoint")]

    def survive(self, fault: str, *, same_weights: bool = True) -> None:
        """Wait for success and for proof: every certificate holds, the weights are those of an
        undisturbed run, and what the API said meanwhile was true.
        """
        observer = self.observer
        assert observer is not None
        try:
            recovered_at = self._await_recovery()
            job = self.finish()
        finally:
            observer.__exit__()
        observer.require_truth()
        certificates = [item.certificate for item in self.arena.api.certificates(self.id)]
        assert certificates, "no attempt stated a certificate"
        assert [item for item in certificates if not holds(item)] == []
        assert job.progress.step == STEPS
        if same_weights:
            undisturbed = self.arena.undisturbed_digests()
            saved = self.saved_digests()
            assert {step for step, _ in saved} >= {STEPS}
            assert [item for item in saved if item[1] != undisturbed[item[0]]] == []
        self._assert_nothing_is_left()
        last = certificates[-1]
        proof = f"{last['issued']} issued = {last['trained']} trained + {sum(last['dropped'].values())} dropped; 0 lost"
        proof += "; same weights" if same_weights else ""
        self.arena.reports.append(
            Report(
                fault,
                self._what_happened(),
                recovered_at - self.hurt_at,
                proof,
                observer.summary(),
            )
        )

    def _await_recovery(self) -> float:
        """When the first optimizer step after the fault was done."""
        deadline = time.monotonic() + 240
        while True:
            job = self.read()
            if (
                job.state == "succeeded"
                or (job.progress.step if job.progress else 0) > self.hurt_step
            ):
                return time.monotonic()
            assert job.state not in ENDS, job.error
            assert time.monotonic() < deadline, job
            time.sleep(0.1)

    def _what_happened(self) -> str:
        attempts = self.arena.api.attempts(self.id)
        errors = [item.error.code for item in attempts if item.error is not None]
        if len(attempts) == 1:
            return "the attempt continued"
        why = ", ".join(errors) or "stopped"
        return f"attempt {len(attempts)} resumed from step {attempts[-1].resumed_from} ({why})"

    def _assert_nothing_is_left(self) -> None:
        deadline = time.monotonic() + 30
        while self.arena.learners() or [name for name in self.arena.leftovers() if self.id in name]:
            assert time.monotonic() < deadline, (self.arena.learners(), self.arena.leftovers())
            time.sleep(0.1)


def holds(certificate: Json) -> bool:
    """0 lost, 0 trained twice, the sum is right, the weights are those of the checkpoint."""
    accounted = certificate["trained"] + sum(certificate["dropped"].values()) + certificate["open"]
    sound = (
        certificate["lost"] == certificate["trained_twice"] == 0
        and certificate["issued"] == accounted
    )
    # A restart from zero has no saved weights to compare with.
    return sound and certificate["digest_before"] in (None, certificate["digest_after"])


def patiently(ask: Callable[[], JobView], timeout_s: float = 60.0) -> JobView:
    """Ask until the API answers: the fault may be its own, or its database's."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except AssertionError:
            raise
        except Exception:  # whatever a broken connection raises
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def kill(process: psutil.Process) -> None:
    """SIGKILL."""
    os.kill(process.pid, signal.SIGKILL)


def wait_for(job: HurtJob, state: str, timeout_s: float = 120.0) -> JobView:
    """The job once it is in the state."""
    deadline = time.monotonic() + timeout_s
    while (found := job.read()).state != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def fill(disk: Path, *, spare_bytes: int = 0) -> None:
    """Leave so many bytes free."""
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while (free := shutil.disk_usage(disk).free) > spare_bytes:
            filler.write(bytes(min(1 << 20, free - spare_bytes)))


def _mount(*arguments: str) -> None:
    if subprocess.run(["mount", *arguments], check=False).returncode != 0:
        pytest.skip("a file system cannot be mounted by this user")


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of its own at a directory: the way to have a disk full without filling
    everybody's.
    """
    path.mkdir(exist_ok=True)  # made by the first job, of which this one may be
    _mount("-t", "tmpfs", "-o", "size=256m", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Let every path below a directory be read-only; files that are open stay writable."""
    _mount("--bind", str(path), str(path))
    try:
        _mount("-o", "remount,bind,ro", str(path))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def stopped(*processes: psutil.Process) -> Iterator[None]:
    """SIGSTOP for the length of the block; SIGCONT to those that still exist."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def arena(**environment: str) -> Iterator[Arena]:
    """A platform with two replicas and short leases."""
    short = {"DIRL_ROLLOUT_LEASE_S": "3", "DIRL_TORCH_THREADS": "1", **environment}
    before = {name: os.environ.get(name) for name in short}
    os.environ.update(short)
    try:
        with local_platform(rollout_replicas=2) as platform, ApiClient(platform.api_url) as api:
            yield Arena(platform, api, _spec(platform.data_dir / "input"))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _spec(directory: Path) -> dict[str, Any]:
    spec = tiny_spec(directory, rl_steps=STEPS)
    return {
        **{name: spec[name] for name in spec if name not in ("sft", "validation_file")},
        "method": "rl",
    }
