import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest

from services.common.codec import pack_int32, verdict_from_pb
from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.rpc.client import call, channel, probe
from services.common.trajectory import Outcome, Verdict
from tests.support.processes import ServiceProcess, running_grpc_service
from tests.support.servers import free_address

STUCK_GRADER = '{"name":"p","type":"python","source":"def grade(sample, item):\\n while True: pass","timeout_s":30}'


@pytest.fixture(scope="module")
def address() -> str:
    return free_address()


@pytest.fixture(scope="module")
def service(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    environment = {"DIRL_REWARD_LISTEN": address, "DIRL_REWARD_WORKERS": "1"}
    log = tmp_path_factory.mktemp("reward") / "log"
    with running_grpc_service("services.reward", log, address, environment) as process:
        yield process


@pytest.fixture
def connection(service: ServiceProcess, address: str) -> Iterator[grpc.Channel]:
    with channel(address) as opened:
        yield opened


def item(**fields: Any) -> reward_pb2.VerifyItem:
    return reward_pb2.VerifyItem(
        **{"reference_answer": "72", "response": r"\boxed{72}", "finish_reason": "stop", **fields}
    )


def verify(connection: grpc.Channel, *items: reward_pb2.VerifyItem, **fields: Any) -> list[Verdict]:
    request = reward_pb2.VerifyRequest(
        **{"items": items, "graders": ["accuracy"], "profile": "rl", **fields}
    )
    stub = reward_pb2_grpc.RewardServiceStub(connection)
    response = call(stub.Verify, request, timeout_s=60, what="Verify")
    return [verdict_from_pb(verdict) for verdict in response.verdicts]


def test_the_status_tells_the_release_and_the_pool(connection: grpc.Channel) -> None:
    stub = reward_pb2_grpc.RewardServiceStub(connection)
    status = call(
        stub.GetStatus, reward_pb2.GetRewardStatusRequest(), timeout_s=60, what="GetStatus"
    )

    assert (status.workers, status.max_workers, status.waiting) == (1, 1, 0)
    assert status.version
    # Service, zygote and one worker.
    assert 30 << 20 < status.rss_bytes < 2 << 30


def test_verdicts_come_back_in_order_with_their_rewards(connection: grpc.Channel) -> None:
    verdicts = verify(
        connection,
        item(),
        item(response=r"\boxed{73}"),
        item(reference_answer=r"\frac{\pi}{4}", response=r"\boxed{\pi/4}"),
        item(finish_reason="length"),
        item(reference_answer=""),
        graders=["accuracy", "format"],
    )
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.CORRECT,
        Outcome.INCORRECT,
        Outcome.CORRECT,
        Outcome.TRUNCATED,
        Outcome.UNVERIFIABLE,
    ]
    assert verdicts[0].rewards == {"accuracy": 1.0, "format": 1.0}
    assert verdicts[1].rewards == {"accuracy": 0.0, "format": 1.0}
    assert verdicts[4].rewards == {}
    assert (verdicts[0].compare_path, verdicts[2].compare_path) == ("string", "formula")


def test_the_profile_decides_on_fallbacks(connection: grpc.Channel) -> None:
    response = item(response="The answer is 72.")
    assert verify(connection, response, profile="rl")[0].outcome is Outcome.NO_ANSWER
    assert verify(connection, response, profile="eval")[0].outcome is Outcome.CORRECT


def test_rows_reach_the_graders_of_their_responses(connection: grpc.Channel) -> None:
    source = """
def grade(sample, item):
    return item["tests"][sample["unmask_step"][-1]] + len(item["messages"])
"""
    responses = [
        item(reference_answer="", row=place, unmask_step=pack_int32(np.array([0, step], np.int32)))
        for place, step in ((0, 1), (1, 0), (1, 1))
    ]
    rows = [
        json.dumps({"tests": tests, "messages": [{}]}) for tests in ([0.25, 0.5], [0.125, 0.75])
    ]
    grader = json.dumps({"name": "p", "type": "python", "source": source})
    verdicts = verify(connection, *responses, graders=[grader], rows=rows)
    assert [verdict.rewards["p"] for verdict in verdicts] == [1.5, 1.125, 1.75]
    assert {verdict.outcome for verdict in verdicts} == {Outcome.SCORED}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": ["{"]}, r"rows\[0\]: is not JSON"),
        ({"rows": ["[]"]}, r"rows\[0\]: is \[\]; it must be a JSON object"),
        ({"rows": ["{}"], "row": 1}, r"items\[0\].row: 1 is not one of the 1 rows"),
        ({"rows": [], "row": -1}, r"items\[0\].row: -1 is not one of the 0 rows"),
    ],
)
def test_rows_that_cannot_be_read_fail_the_call(
    connection: grpc.Channel, fields: dict[str, Any], message: str
) -> None:
    own = {"row": fields.pop("row")} if "row" in fields else {}
    with pytest.raises(PlatformError, match=message):
        verify(connection, item(**own), **fields)


def test_an_empty_batch_has_no_verdicts(connection: grpc.Channel) -> None:
    assert verify(connection) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"graders": ["sped"]}, "does not match any of the expected tags"),
        ({"profile": ""}, "not one of the profiles: rl, eval"),
        ({"profile": "test"}, "not one of the profiles"),
        ({"timeout_s": -1.0}, "outside 0..60"),
        ({"timeout_s": 61.0}, "outside 0..60"),
        ({"timeout_s": float("nan")}, "outside 0..60"),
        ({"items": [item(), item(finish_reason="eos")]}, r"items\[1\].finish_reason: 'eos'"),
        ({"items": [item()] * 4097}, "the limit of 4096"),
    ],
)
def test_malformed_requests_are_refused_with_the_place(
    connection: grpc.Channel, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlatformError, match=message) as caught:
        verify(connection, **fields)
    assert caught.value.code == "invalid_request"


def test_the_service_ends_on_sigterm_and_leaves_no_process(tmp_path: Path) -> None:
    address = free_address()
    environment = {"DIRL_REWARD_LISTEN": address, "DIRL_REWARD_WORKERS": "2"}
    with running_grpc_service("services.reward", tmp_path / "log", address, environment) as service:
        family = psutil.Process(service.process.pid).children(recursive=True)
        names = [" ".join(member.cmdline()) for member in family]
        assert sum("services.reward.zygote" in name for name in names) == 3
        assert sum("jail.py" in name for name in names) >= 1
        assert service.terminate() == 0
        assert not probe(address, 1.0)
        # The kernel ends the namespaces of sandboxes when their first process has ended.
        _, alive = psutil.wait_procs(family, timeout=5)
        assert alive == []
        assert "reward ready" in service.output()


def test_the_status_tells_the_last_error(tmp_path: Path) -> None:
    address = free_address()
    environment = {"DIRL_REWARD_LISTEN": address, "DIRL_REWARD_WORKERS": "1"}
    with running_grpc_service("services.reward", tmp_path / "log", address, environment) as service:
        [zygote] = [
            child
            for child in psutil.Process(service.process.pid).children()
            if "services.reward.zygote" in child.cmdline()
        ]
        zygote.kill()
        with channel(address) as connection:
            verify(connection, item(reference_answer=r"\frac{\pi}{4}", response=r"\boxed{\pi/4}"))
            stub = reward_pb2_grpc.RewardServiceStub(connection)
            status = call(
                stub.GetStatus, reward_pb2.GetRewardStatusRequest(), timeout_s=60, what="GetStatus"
            )

    assert status.last_error == "verifier zygote lost"
    assert abs(status.last_error_at - time.time()) < 600


def test_a_killed_service_leaves_no_process(tmp_path: Path) -> None:
    address = free_address()
    environment = {"DIRL_REWARD_LISTEN": address, "DIRL_REWARD_WORKERS": "1"}
    with running_grpc_service("services.reward", tmp_path / "log", address, environment) as service:
        family = psutil.Process(service.process.pid).children(recursive=True)
        service.kill()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert [member for member in alive if member.status() != psutil.STATUS_ZOMBIE] == []


def test_a_killed_service_leaves_no_grader_that_never_ends(tmp_path: Path) -> None:
    address = free_address()
    environment = {"DIRL_REWARD_LISTEN": address, "DIRL_REWARD_WORKERS": "1"}
    with running_grpc_service("services.reward", tmp_path / "log", address, environment) as service:
        parent = psutil.Process(service.process.pid)
        before = parent.children(recursive=True)
        with channel(address) as opened:
            request = reward_pb2.VerifyRequest(items=[item()], graders=[STUCK_GRADER], profile="rl")
            asked = reward_pb2_grpc.RewardServiceStub(opened).Verify.future(request, timeout=120)
            service.wait_until(
                lambda: len(parent.children(recursive=True)) > len(before),
                "a process for the grader",
            )
            time.sleep(0.5)  # it is in its jail, and its endless loop
            family = parent.children(recursive=True)
            service.kill()
            asked.cancel()
        _, alive = psutil.wait_procs(family, timeout=15)
        assert [member for member in alive if member.status() != psutil.STATUS_ZOMBIE] == []


def test_a_hung_up_call_frees_its_worker_for_the_next(connection: grpc.Channel) -> None:
    stub = reward_pb2_grpc.RewardServiceStub(connection)
    slow = item(
        reference_answer="x^2+42", response=r"\boxed{\int_0^1 \frac{\sin(x^x)}{\log(1+x^{x})} dx}"
    )
    request = reward_pb2.VerifyRequest(
        items=[slow], graders=["accuracy"], profile="eval", timeout_s=60.0
    )
    abandoned = stub.Verify.future(request, timeout=120)
    time.sleep(0.2)
    abandoned.cancel()
    assert (
        verify(connection, item(reference_answer="x+1", response=r"\boxed{1+x}"))[0].outcome
        is Outcome.CORRECT
    )


def test_a_hung_up_call_ends_its_python_grader(
    service: ServiceProcess, connection: grpc.Channel
) -> None:
    parent = psutil.Process(service.process.pid)
    before = {child.pid for child in parent.children(recursive=True)}
    request = reward_pb2.VerifyRequest(items=[item()], graders=[STUCK_GRADER], profile="rl")
    abandoned = reward_pb2_grpc.RewardServiceStub(connection).Verify.future(request, timeout=120)
    service.wait_until(
        lambda: len(parent.children(recursive=True)) > len(before), "a process for the grader"
    )
    abandoned.cancel()
    service.wait_until(
        lambda: {child.pid for child in parent.children(recursive=True)} <= before,
        "its end",
        timeout_s=15,
    )


def test_a_grader_without_a_number_makes_its_response_alone_unverifiable(
    connection: grpc.Channel,
) -> None:
    broken = '{"name":"p","type":"python","source":"def grade(sample, item): return 1 / (len(sample[\'answer\']) - 1)"}'
    verdicts = verify(
        connection,
        item(),
        item(reference_answer="7", response=r"\boxed{7}"),
        graders=["accuracy", broken],
    )
    assert [verdict.outcome for verdict in verdicts] == [Outcome.CORRECT, Outcome.UNVERIFIABLE]
    assert verdicts[0].rewards == {"accuracy": 1.0, "p": 1.0}
    assert verdicts[1].rewards == {}
    assert verdicts[1].reason.startswith("grader:p:python_error (ZeroDivisionError")


def test_reference_answers_are_audited(connection: grpc.Channel) -> None:
    reference_answers = ["72", r"\frac{\pi}{2}", "", r"1,2,\ldots,n", "9^{9^{9^9}}", r"R_{\odot}"]
    request = reward_pb2.AuditReferenceAnswersRequest(
        reference_answers=[
            reward_pb2.ReferenceAnswer(reference_answer=reference_answer)
            for reference_answer in reference_answers
        ]
    )
    answer = call(
        reward_pb2_grpc.RewardServiceStub(connection).AuditReferenceAnswers,
        request,
        timeout_s=60,
        what="AuditReferenceAnswers",
    )
    assert [(audit.answer_type, audit.status, audit.reason) for audit in answer.audits] == [
        ("integer", "ok", ""),
        ("expression", "ok", ""),
        ("expression", "invalid", "empty"),
        ("list", "flagged", "ellipsis"),
        ("expression", "invalid", "reference_answer_invalid"),
        ("expression", "ok", ""),
    ]


def test_metrics_are_served_for_prometheus(tmp_path: Path) -> None:
    address, metrics = free_address(), free_address()
    environment = {
        "DIRL_REWARD_LISTEN": address,
        "DIRL_METRICS_LISTEN": metrics,
        "DIRL_REWARD_WORKERS": "1",
    }
    with (
        running_grpc_service("services.reward", tmp_path / "log", address, environment),
        channel(address) as connection,
    ):
        verify(connection, item(), item(response=r"\boxed{73}"))
        text = httpx.get(f"http://{metrics}/metrics", trust_env=False).text
    assert 'dirl_reward_verifications_total{outcome="correct"} 1.0' in text
    assert 'dirl_reward_verifications_total{outcome="incorrect"} 1.0' in text
    assert "dirl_reward_queue_depth 0.0" in text
