"""gRPC transport of the reward service; Verifier has the logic."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Any, Final, TypeVar

import grpc

from services.common.answers.answer_types import AnswerType
from services.common.codec import unpack_int32, verdict_to_pb
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.release import release
from services.common.telemetry.last_error import last_error
from services.common.trajectory import FinishReason
from services.reward.cancellation import Cancellation
from services.reward.extraction import Profile
from services.reward.graders import NOTHING_INSTALLED, Installation, make_graders
from services.reward.sandbox import shared_sandboxes
from services.reward.verifier import Item, Verifier

SERVICE_NAME: Final = "dirl.v1.RewardService"
_MAX_ITEMS: Final = 4096
_MAX_TIMEOUT_S: Final = 60.0
_REPLY_S: Final = 0.5
_Choice = TypeVar("_Choice", bound=StrEnum)


class RewardService(reward_pb2_grpc.RewardServiceServicer):
    """The servicer; its only state is the cache of the verifier."""

    def __init__(
        self,
        verifier: Verifier,
        default_timeout_s: float,
        installation: Installation = NOTHING_INSTALLED,
    ) -> None:
        self._verifier, self._installation = verifier, installation
        self._default_timeout_s = default_timeout_s

    def Verify(
        self, request: reward_pb2.VerifyRequest, context: grpc.ServicerContext
    ) -> reward_pb2.VerifyResponse:
        """Grade a batch; raises PlatformError for malformed requests and a full queue."""
        if len(request.items) > _MAX_ITEMS:
            raise _invalid(
                "items", f"{len(request.items)} items exceed the limit of {_MAX_ITEMS} per batch"
            )
        graders = make_graders(request.graders, self._installation)
        profile = _parse_choice(Profile, request.profile, "profile", "profiles")
        if not 0 <= request.timeout_s <= _MAX_TIMEOUT_S:
            limits = f"0..{_MAX_TIMEOUT_S:g}; 0 uses the default of the service"
            raise _invalid("timeout_s", f"{request.timeout_s} is outside {limits}")
        timeout_s = request.timeout_s or self._default_timeout_s
        rows = [_parse_row(row, place) for place, row in enumerate(request.rows)]
        items = [_item_from_pb(item, place, rows) for place, item in enumerate(request.items)]
        cancellation = Cancellation()
        # gRPC calls back when the caller hangs up or its deadline passes; it takes no callback
        # for a call that has already ended.
        if not context.add_callback(cancellation.cancel):
            cancellation.cancel()
        verdicts = self._verifier.verify(
            items,
            graders,
            profile,
            timeout_s=timeout_s,
            expires_at=_expiry(context.time_remaining(), timeout_s),
            cancellation=cancellation,
        )
        return reward_pb2.VerifyResponse(verdicts=[verdict_to_pb(verdict) for verdict in verdicts])

    def AuditReferenceAnswers(
        self, request: reward_pb2.AuditReferenceAnswersRequest, context: grpc.ServicerContext
    ) -> reward_pb2.AuditReferenceAnswersResponse:
        """Audit a batch of reference answers; raises PlatformError for malformed requests and a full queue."""
        if len(request.reference_answers) > _MAX_ITEMS:
            raise _invalid(
                "reference_answers",
                f"{len(request.reference_answers)} reference answers exceed the limit of {_MAX_ITEMS} per batch",
            )
        reference_answers = [
            (
                item.reference_answer,
                _parse_answer_type(item.answer_type, f"reference_answers[{place}].answer_type"),
            )
            for place, item in enumerate(request.reference_answers)
        ]
        expires_at = _expiry(context.time_remaining(), self._default_timeout_s)
        audits = self._verifier.audit(
            reference_answers, timeout_s=self._default_timeout_s, expires_at=expires_at
        )
        return reward_pb2.AuditReferenceAnswersResponse(
            audits=[
                reward_pb2.ReferenceAudit(
                    answer_type=audit.kind.value, status=audit.status, reason=audit.reason
                )
                for audit in audits
            ]
        )

    def GetStatus(
        self, request: reward_pb2.GetRewardStatusRequest, context: grpc.ServicerContext
    ) -> reward_pb2.GetRewardStatusResponse:
        """Return the status without waiting for a worker."""
        isolation = shared_sandboxes.open().isolation
        status = reward_pb2.GetRewardStatusResponse(
            version=release(),
            **asdict(self._verifier.pool.status()),
            sandbox=isolation.mode,
            sandbox_reason=isolation.reason,
            unix_time_s=time.time(),
        )
        if (error := last_error()) is not None:
            status.last_error, status.last_error_at = error.message, int(error.at.timestamp())
        return status


def _expiry(remaining_s: float | None, timeout_s: float) -> float:
    """Return the latest dispatch time that leaves time for a reply before the deadline of the call."""
    if remaining_s is None:
        return math.inf
    # A short deadline still leaves half of its time for the queue.
    return time.monotonic() + max(remaining_s - timeout_s - _REPLY_S, remaining_s / 2)


def _parse_row(text: str, place: int) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise _invalid(f"rows[{place}]", f"is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise _invalid(f"rows[{place}]", f"is {text[:80]}; it must be a JSON object")
    return row


def _item_from_pb(
    message: reward_pb2.VerifyItem, place: int, rows: Sequence[Mapping[str, Any]]
) -> Item:
    if message.HasField("row") and not 0 <= message.row < len(rows):
        raise _invalid(f"items[{place}].row", f"{message.row} is not one of the {len(rows)} rows")
    param = f"items[{place}].finish_reason"
    finish_reason = _parse_choice(FinishReason, message.finish_reason, param, "finish reasons")
    return Item(
        message.item_id,
        message.reference_answer,
        message.response,
        finish_reason,
        kind=_parse_answer_type(message.answer_type, f"items[{place}].answer_type"),
        num_tokens=message.num_tokens,
        num_steps=message.num_steps,
        max_new_tokens=message.max_new_tokens,
        row=rows[message.row] if message.HasField("row") else {},
        unmask_step=unpack_int32(message.unmask_step).tolist(),
    )


def _parse_answer_type(name: str, param: str) -> AnswerType | None:
    return _parse_choice(AnswerType, name, param, "answer types") if name else None


def _parse_choice(choices: type[_Choice], name: str, param: str, plural: str) -> _Choice:
    try:
        return choices(name)
    except ValueError:
        known = ", ".join(choices)
        raise _invalid(param, f"{name!r} is not one of the {plural}: {known}") from None


def _invalid(param: str, message: str) -> PlatformError:
    return PlatformError(
        "invalid_request", f"Cannot verify the batch: {param}: {message}.", param=param
    )
