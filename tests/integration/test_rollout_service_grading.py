"""Grading over real gRPC: verdicts keep their places, and a verifier that fails never becomes a
zero.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from services.common.codec import pack_int32, verdict_to_pb
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.rpc.server import RpcServer
from services.common.trajectory import Outcome, Purpose, ScoredGroup, Verdict
from services.rollout.grading import ABORTED_RESPONSE, GradingClient
from tests.support.builders import prompt_task, trajectory
from tests.support.servers import free_address

Answer = Callable[[reward_pb2.VerifyRequest], reward_pb2.VerifyResponse]
WAIT_S = 30.0


class ScriptedVerifier(reward_pb2_grpc.RewardServiceServicer):
    """Answers as the test says, and remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.requests = list(answers), []

    def Verify(
        self, request: reward_pb2.VerifyRequest, context: grpc.ServicerContext
    ) -> reward_pb2.VerifyResponse:
        self.requests.append(request)
        return self.answers.pop(0)(request)


def by_equality(request: reward_pb2.VerifyRequest) -> reward_pb2.VerifyResponse:
    """Correct when the text is the reference answer."""
    outcomes = [
        Outcome.CORRECT if item.response == item.reference_answer else Outcome.INCORRECT
        for item in request.items
    ]
    return reward_pb2.VerifyResponse(
        verdicts=[verdict_to_pb(Verdict(outcome=outcome)) for outcome in outcomes]
    )


def failing(code: str) -> Answer:
    def fail(_request: reward_pb2.VerifyRequest) -> reward_pb2.VerifyResponse:
        raise PlatformError(code, "The verifier has a bad day.")

    return fail


@contextmanager
def grader_at(address: str) -> Iterator[GradingClient]:
    grader = GradingClient(
        address, lambda ids: "".join(map(str, ids)), "r0", backoffs_s=(0.01, 0.01)
    )
    yield grader
    grader.close()


@contextmanager
def grader_of(verifier: ScriptedVerifier) -> Iterator[GradingClient]:
    server = RpcServer(
        "127.0.0.1:0",
        lambda s: reward_pb2_grpc.add_RewardServiceServicer_to_server(verifier, s),
        [],
    )
    with grader_at(server.address) as grader:
        yield grader
    server.stop(lambda: None)


def grade(grader: GradingClient, **changes: object) -> ScoredGroup:
    """Two responses whose visible texts are "89" and "8", graded."""
    first = trajectory(trajectory_id="t0", visible_len=2, text="", verdict=None)
    second = trajectory(trajectory_id="t1", visible_len=1, text="", verdict=None)
    task = prompt_task(reference_answer="8", **changes)
    return grader.grade(task, (first, second), rollout_s=0.5).result(WAIT_S)


def outcomes(group: ScoredGroup) -> list[tuple[Outcome, str]]:
    return [
        (t.verdict.outcome, t.verdict.reason) for t in group.trajectories if t.verdict is not None
    ]


def test_each_response_gets_its_own_verdict_and_the_visible_text() -> None:
    with grader_of(ScriptedVerifier(by_equality)) as grader:
        group = grade(grader)

    assert [t.text for t in group.trajectories] == ["89", "8"]
    assert outcomes(group) == [(Outcome.INCORRECT, ""), (Outcome.CORRECT, "")]
    assert (group.replica, group.rollout_s) == ("r0", 0.5)


@pytest.mark.parametrize(("purpose", "profile"), [(Purpose.TRAIN, "rl"), (Purpose.EVAL, "eval")])
def test_the_verifier_is_told_everything_about_the_response(purpose: Purpose, profile: str) -> None:
    verifier = ScriptedVerifier(by_equality)
    with grader_of(verifier) as grader:
        grade(grader, purpose=purpose, grading_timeout_s=2.5, row='{"tests": [1]}')

    (request,) = verifier.requests
    assert (request.profile, list(request.graders), request.timeout_s) == (
        profile,
        ["accuracy"],
        2.5,
    )
    assert request.items[0] == reward_pb2.VerifyItem(
        item_id="t0",
        reference_answer="8",
        response="89",
        finish_reason="stop",
        num_tokens=2,
        num_steps=3,
        max_new_tokens=8,
        row=0,
        unmask_step=pack_int32(np.array([1, 2], np.int32)),
    )
    assert list(request.rows) == ['{"tests": [1]}']


def test_a_verifier_that_is_busy_is_asked_again() -> None:
    verifier = ScriptedVerifier(failing("busy"), failing("worker_lost"), by_equality)
    with grader_of(verifier) as grader:
        group = grade(grader)

    assert outcomes(group)[1] == (Outcome.CORRECT, "")


def test_a_verifier_that_stays_busy_makes_responses_unverifiable_and_never_wrong() -> None:
    verifier = ScriptedVerifier(*[failing("busy")] * 3)
    with grader_of(verifier) as grader:
        group = grade(grader)

    assert outcomes(group) == [(Outcome.UNVERIFIABLE, "busy")] * 2
    assert len(verifier.requests) == 3


def test_a_request_that_the_verifier_refuses_is_not_repeated() -> None:
    verifier = ScriptedVerifier(failing("invalid_request"))
    with grader_of(verifier) as grader:
        group = grade(grader)

    assert outcomes(group) == [(Outcome.UNVERIFIABLE, "invalid_request")] * 2


def test_a_verifier_that_is_not_there_makes_responses_unverifiable() -> None:
    with grader_at(free_address()) as grader:
        group = grade(grader)

    assert outcomes(group) == [(Outcome.UNVERIFIABLE, "verifier_unavailable")] * 2


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_verdicts_shifts_nobodys_score(count: int) -> None:
    verdicts = [verdict_to_pb(Verdict(outcome=Outcome.CORRECT))] * count
    verifier = ScriptedVerifier(lambda request: reward_pb2.VerifyResponse(verdicts=verdicts))
    with grader_of(verifier) as grader:
        group = grade(grader)

    assert outcomes(group) == [(Outcome.UNVERIFIABLE, "internal")] * 2


def test_responses_that_were_never_decoded_are_aborted_without_asking_the_verifier() -> None:
    verifier = ScriptedVerifier()
    aborted = [trajectory(response=ABORTED_RESPONSE, verdict=None)] * 2
    with grader_of(verifier) as grader:
        group = grader.grade(prompt_task(), aborted, 0.0, refusal="too long").result(WAIT_S)

    assert outcomes(group) == [(Outcome.ABORTED, "too long")] * 2
    assert verifier.requests == []


def test_a_verifier_that_says_when_to_come_back_is_not_asked_before() -> None:
    asked: list[float] = []

    def busy(_request: reward_pb2.VerifyRequest) -> reward_pb2.VerifyResponse:
        asked.append(time.monotonic())
        raise PlatformError("busy", "The queue is full.", retry_after_s=0.3)

    def answer(request: reward_pb2.VerifyRequest) -> reward_pb2.VerifyResponse:
        asked.append(time.monotonic())
        return by_equality(request)

    with grader_of(ScriptedVerifier(busy, answer)) as grader:
        grade(grader)

    assert asked[1] - asked[0] >= 0.3
