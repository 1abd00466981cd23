"""Decoded groups become scored groups: detokenise, call the reward service, never invent a number."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import numpy as np

from services.common.codec import pack_int32, verdict_from_pb
from services.common.errors import PlatformError
from services.common.grader_spec import max_grading_seconds
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.rpc.client import call, channel
from services.common.telemetry.logs import get_logger
from services.common.trajectory import (
    FinishReason,
    Int32s,
    Outcome,
    PromptTask,
    Purpose,
    Response,
    ScoredGroup,
    Trajectory,
    Verdict,
)

_THREADS: Final = 8
# No new attempt is made after this long, whatever the attempts' own deadlines were.
_RETRY_WINDOW_S: Final = 60.0
# They fill the window: a reward service that is being restarted must not turn responses into
# unverifiable ones.
_BACKOFFS_S: Final = (0.25, 0.5, 1.0, 2.0, *(4.0,) * 14)
# Time of a call in addition to the verifications themselves.
_CALL_MARGIN_S: Final = 10.0
_PROFILES: Final = {Purpose.TRAIN: "rl", Purpose.EVAL: "eval"}

Detokenise = Callable[[Int32s], str]
"""Visible token ids to text without special tokens."""

log = get_logger()


_NO_INTS: Final = np.zeros(0, np.int32)
_NO_FLOATS: Final = np.zeros(0, np.float32)
ABORTED_RESPONSE: Final = Response(
    token_ids=_NO_INTS,
    unmask_step=_NO_INTS,
    logprobs=_NO_FLOATS,
    confidences=_NO_FLOATS,
    visible_len=0,
    finish_reason=FinishReason.ABORTED,
    num_forwards=0,
)
"""A response that was never decoded."""


class GradingClient:
    """Grades groups in parallel, one batch per group. Belongs to one assignment."""

    def __init__(
        self,
        reward_address: str,
        detokenise: Detokenise,
        replica: str,
        backoffs_s: Sequence[float] = _BACKOFFS_S,
    ) -> None:
        self._address, self._detokenise, self._replica = reward_address, detokenise, replica
        self._backoffs_s = backoffs_s
        self._channel = channel(reward_address)
        self._stub = reward_pb2_grpc.RewardServiceStub(self._channel)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="grading")
        self._closing = threading.Event()

    def grade(
        self,
        task: PromptTask,
        trajectories: Sequence[Trajectory],
        rollout_s: float,
        refusal: str = "",
    ) -> "Future[ScoredGroup]":
        """Start grading a prompt's responses; every trajectory of the result has text and verdict.

        `rollout_s` is the time their decoding took. `refusal` says why the prompt could not be
        decoded; all responses are aborted then.
        """
        return self._pool.submit(
            self._grade, task, trajectories, rollout_s, refusal, time.monotonic()
        )

    def close(self) -> None:
        """Abandon what is being graded; its futures fail or never complete."""
        self._closing.set()
        self._channel.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _grade(
        self,
        task: PromptTask,
        trajectories: Sequence[Trajectory],
        rollout_s: float,
        refusal: str,
        decoded_at: float,
    ) -> ScoredGroup:
        worded = [replace(t, text=self._detokenise(t.response.visible_ids)) for t in trajectories]
        verdicts = iter(self._verdicts(task, [t for t in worded if not t.response.is_aborted]))
        aborted = Verdict(outcome=Outcome.ABORTED, reason=refusal)
        return ScoredGroup(
            group_id=task.group_id,
            trajectories=tuple(
                replace(t, verdict=aborted if t.response.is_aborted else next(verdicts))
                for t in worded
            ),
            replica=self._replica,
            rollout_s=rollout_s,
            reward_s=time.monotonic() - decoded_at,
            finished_at=time.time(),
        )

    def _verdicts(self, task: PromptTask, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """One verdict per trajectory; a verifier that does not answer makes them unverifiable,
        never zero.
        """
        if not trajectories:
            return []
        try:
            verdicts = [
                verdict_from_pb(v)
                for v in self._verify(verify_request(task, trajectories)).verdicts
            ]
            if len(verdicts) != len(trajectories):
                raise PlatformError(
                    "internal", f"{len(verdicts)} verdicts came for {len(trajectories)} responses."
                )
        except PlatformError as error:
            log.warning(
                "group not verified", group_id=task.group_id, code=error.code, error=str(error)
            )
            return [Verdict(outcome=Outcome.UNVERIFIABLE, reason=error.code)] * len(trajectories)
        return verdicts

    def _verify(self, request: reward_pb2.VerifyRequest) -> reward_pb2.VerifyResponse:
        """Call until the service responds; raises the last error after the last backoff or the
        retry window.
        """
        give_up_at = time.monotonic() + _RETRY_WINDOW_S
        for backoff_s in (*self._backoffs_s, None):
            try:
                return call(
                    self._stub.Verify,
                    request,
                    timeout_s=request.timeout_s * len(request.items)
                    + max_grading_seconds(tuple(request.graders), len(request.items))
                    + _CALL_MARGIN_S,
                    what=f"Verify on reward service {self._address}",
                    unavailable_code="verifier_unavailable",
                )
            except PlatformError as error:
                if not error.retryable or backoff_s is None or time.monotonic() > give_up_at:
                    raise
                pause_s = max(backoff_s, error.retry_after_s or 0.0)
                log.info("verification is retried", code=error.code, pause_s=pause_s)
            if self._closing.wait(min(pause_s, max(0.0, give_up_at - time.monotonic()))):
                break
        raise PlatformError(
            "cancelled", "Grading was abandoned because the replica's assignment ended."
        )


def verify_request(
    task: PromptTask, trajectories: Sequence[Trajectory]
) -> reward_pb2.VerifyRequest:
    """Make the batch of one group; the last complete answer counts in training, fallbacks are allowed in
    evaluation.
    """
    items = [
        reward_pb2.VerifyItem(
            item_id=t.trajectory_id,
            reference_answer=task.reference_answer,
            answer_type=task.answer_type,
            response=t.text,
            finish_reason=t.response.finish_reason.value,
            num_tokens=t.response.visible_len,
            num_steps=t.response.num_steps,
            max_new_tokens=task.decoding.max_new_tokens,
            unmask_step=pack_int32(t.response.unmask_step[: t.response.visible_len]),
            row=0,
        )
        for t in trajectories
    ]
    return reward_pb2.VerifyRequest(
        items=items,
        graders=task.graders,
        profile=_PROFILES[task.purpose],
        timeout_s=task.grading_timeout_s,
        rows=[task.row],
    )
