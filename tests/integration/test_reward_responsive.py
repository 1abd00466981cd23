"""The service answers while it grades text that is made to be slow."""

import threading
import time
from pathlib import Path

from services.common.errors import PlatformError
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.rpc.client import call, channel, probe
from tests.support.hostile_text import CLASSES
from tests.support.processes import running_process
from tests.support.servers import free_address

ROUNDS = 60
"""Hostile answers of each class: many times what the service grades while it is stopped."""


def test_health_and_sigterm_are_answered_while_hostile_answers_are_graded(tmp_path: Path) -> None:
    address = free_address()
    environment = {"DIRL_REWARD_LISTEN": address, "DIRL_REWARD_WORKERS": "1"}
    items = [
        reward_pb2.VerifyItem(
            reference_answer="(1,2)",
            response=rf"\boxed{{1{one * (1490 // len(one))}x{number}}}",
            finish_reason="stop",
        )
        for number in range(ROUNDS)
        for one in CLASSES.values()
    ]
    request = reward_pb2.VerifyRequest(
        items=items, graders=["accuracy"], profile="rl", timeout_s=2.0
    )
    results: list[PlatformError | None] = []

    def grade() -> None:
        with channel(address) as connection:
            verify = reward_pb2_grpc.RewardServiceStub(connection).Verify
            try:
                call(verify, request, timeout_s=60.0, what="Verify")
                results.append(None)
            except PlatformError as error:
                results.append(error)

    with running_process("services.reward", tmp_path / "reward.log", environment) as process:
        process.wait_until(lambda: probe(address, 1.0), "healthy")
        thread = threading.Thread(target=grade)
        thread.start()
        time.sleep(0.5)
        assert all(probe(address, 5.0) for _ in range(10))
        assert not results  # it is still grading

        process.terminate()  # fails unless the process ends within seconds
        thread.join()

    assert [type(result) for result in results] == [PlatformError]
