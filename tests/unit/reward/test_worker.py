import contextlib
import signal
import time
from collections.abc import Iterator

import pytest

from services.reward import worker


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
