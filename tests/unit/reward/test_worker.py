import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from services.reward import wire, worker
from services.reward.comparator import ComparisonReply, compare
from services.reward.comparison_request import ComparisonRequest


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.signal(signal.SIGPROF, worker._raise_cpu_spent)
    yield
    signal.signal(signal.SIGPROF, before)


def burn(answer: str, cpu_s: float) -> None:
    with worker._cpu_budget({"answer": answer, "timeout_s": 0.1}):
        end = time.process_time() + cpu_s
        while time.process_time() < end:
            pass


@pytest.mark.parametrize(
    "answer", [r"\int x^x dx", r"\sum_{n=1}^\infty \sin n", r"\iint x", r"\lim_{x\to 0} x"]
)
def test_endless_operators_get_half_of_the_deadline_as_cpu_time(answer: str) -> None:
    with pytest.raises(worker._CpuSpentError):
        burn(answer, 10.0)


def test_other_answers_have_the_deadline_alone() -> None:
    burn(r"\sin x", 0.3)


def test_no_signal_comes_after_the_comparison() -> None:
    burn(r"\int x dx", 0.0)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


def test_what_swallows_the_first_interruption_is_interrupted_again() -> None:
    def stubborn() -> None:
        with worker._cpu_budget({"answer": r"\int x", "timeout_s": 0.1}):
            with contextlib.suppress(BaseException):  # as a library would
                burn_forever()
            burn_forever()

    with pytest.raises(worker._CpuSpentError):
        stubborn()


def burn_forever() -> None:
    end = time.process_time() + 10.0
    while time.process_time() < end:
        pass


def test_a_comparison_out_of_memory_is_told_apart_from_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that raises, and one that the library reports as wrong after it swallowed the error."""
    peak_bytes = [0]

    def compare_or_fail(request: ComparisonRequest) -> ComparisonReply:
        if request.answer == "raised":
            raise MemoryError
        peak_bytes[0] = 40 if request.answer == "swallowed" else 19
        return compare(request)

    monkeypatch.setattr(worker, "compare", compare_or_fail)
    monkeypatch.setattr(worker, "_peak_bytes", lambda: peak_bytes[0])
    monkeypatch.setattr(worker, "_die_with", lambda parent: None)
    monkeypatch.setattr(resource, "setrlimit", lambda limit, values: None)
    ours, theirs = wire.packet_pair()
    for answer in ("2", "raised", "swallowed"):
        message = {"reference_answer": "1", "answer": answer, "timeout_s": 60.0}
        wire.send(ours, {**message, "kind": "expression", "profile": "rl"})
    ours.shutdown(socket.SHUT_WR)
    worker.run(theirs, 100, os.getpid())
    ready, *replies = (wire.receive(ours) or {} for _ in range(4))
    ours.close()
    theirs.close()
    assert ready["ready"]
    assert [reply["status"] for reply in replies] == ["incorrect", "memory", "memory"]
