import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from services.common.answers.answer_types import AnswerType
from services.common.errors import PlatformError
from services.common.trajectory import FinishReason, Outcome
from services.reward.cancellation import Cancellation
from services.reward.comparison_request import ComparisonRequest
from services.reward.extraction import Extraction, Profile, extract
from services.reward.graders import make_graders
from services.reward.pool import ComparisonResult, Pool, PoolConfig
from services.reward.verifier import Item, Verifier

EASY = (r"3\sqrt{13}", r"\sqrt{117}")
WRONG = (r"3\sqrt{13}", r"\sqrt{118}")
# The reference answer is slow, because an answer with an integral gets a budget of CPU time of its own.
SLOW = (r"\int_0^{\infty} \frac{\sin x}{x^3+1} dx", "42")
ENDLESS = [
    r"\int_0^1 \frac{\sin(x^x)}{\log(1+x^{x})} dx", r"\int_0^{\infty} \frac{\sin x}{x^3+1} dx",
    r"\int_0^{\pi} \sin^{50}(x)\cos^{50}(x) dx",
]  # fmt: skip
LARGE = [
    "1000000000!", "9^{9^{9^9}}", "(((9!)!)!)!", r"\binom{10^6}{5\cdot 10^5}",
    "(x+y+z)^{900}", r"\gcd(2^{10^{10}}, 6)",
    r"\sum_{i=1}^{100000}\sin(i)",
]  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One worker, which is never taken for starved: other work on the machine must not change a
    test.
    """
    pool = Pool(PoolConfig(workers=1, min_cpu_share=0.0))
    pool.start()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def strict_pool() -> Iterator[Pool]:
    """One worker for two items each, two places in the queue, starvation told apart."""
    pool = Pool(PoolConfig(workers=1, items_per_worker=2, queue_size=2))
    pool.start()
    yield pool
    pool.close()


def grade(pool: Pool, *pairs: tuple[str, str], timeout_s: float = 30.0) -> list[ComparisonResult]:
    return [future.result(60) for future in submit(pool, *pairs, timeout_s=timeout_s)]


def submit(
    pool: Pool, *pairs: tuple[str, str], timeout_s: float = 30.0
) -> "list[Future[ComparisonResult]]":
    return pool.submit(
        [to_request(*pair) for pair in pairs], timeout_s=timeout_s, expires_at=math.inf
    )


def to_request(reference_answer: str, answer: str) -> ComparisonRequest:
    return ComparisonRequest(reference_answer, answer, AnswerType.EXPRESSION, Profile.EVAL)


def live_worker(pool: Pool) -> int:
    """The worker of a pool of one; it is made with the first item after it was killed."""
    while not pool.worker_pids:
        grade(pool, EASY)
    return pool.worker_pids[0]


def outcomes(graded: list[ComparisonResult]) -> list[Outcome]:
    return [one.outcome for one in graded]


def wait_until_gone(*pids: int) -> None:
    """Until none of the processes runs; one that no process waited for may remain as a zombie."""
    deadline = time.monotonic() + 20
    while any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        for pid in pids
    ):
        assert time.monotonic() < deadline, f"processes {pids} are still running"
        time.sleep(0.02)


def test_equal_and_unequal_expressions_are_told_apart(pool: Pool) -> None:
    graded = grade(pool, EASY, WRONG, ("x^2+2x+1", "(x+1)^2"), ("10^{-9}x", "10^{-8}x"))
    assert outcomes(graded) == [
        Outcome.CORRECT,
        Outcome.INCORRECT,
        Outcome.CORRECT,
        Outcome.INCORRECT,
    ]
    assert all(one.cpu_ms > 0 and one.wall_ms > 0 for one in graded)


@pytest.mark.parametrize(
    ("reference_answer", "answer"),
    [
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
        ("3", "1,2,3"),
        ("5", "x=4"),
    ],
)
def test_what_rounding_and_sets_would_make_equal_is_refused(
    pool: Pool, reference_answer: str, answer: str
) -> None:
    assert outcomes(grade(pool, (reference_answer, answer))) == [Outcome.INCORRECT]


@pytest.mark.parametrize("answer", ENDLESS)
def test_an_endless_answer_ends_by_its_deadline_and_the_next_is_graded(
    pool: Pool, answer: str
) -> None:
    (ended,), (after,) = grade(pool, ("42", answer), timeout_s=0.4), grade(pool, EASY)
    assert ended.outcome is Outcome.TOO_COMPLEX
    assert ended.reason in ("deadline", "memory", "cpu_time")
    assert ended.wall_ms < 700
    assert ended.reason != "deadline" or ended.wall_ms > 400, (
        "measured, with the time that the kill took"
    )
    assert after.outcome is Outcome.CORRECT


@pytest.mark.parametrize("answer", LARGE)
def test_a_large_answer_costs_no_worker(pool: Pool, answer: str) -> None:
    worker = live_worker(pool)
    (graded,) = grade(pool, ("x^{900}+42", answer), timeout_s=3.0)
    assert graded.outcome in (Outcome.INCORRECT, Outcome.TOO_COMPLEX)
    assert pool.worker_pids == [worker]


def test_the_deadline_runs_from_dispatch_so_waiting_costs_nothing(pool: Pool) -> None:
    slow, *rest = grade(pool, SLOW, EASY, WRONG, timeout_s=1.0)
    assert slow.reason == "deadline"
    assert outcomes(rest) == [Outcome.CORRECT, Outcome.INCORRECT]
    assert all(one.queue_ms >= 1000 for one in rest)


def test_a_worker_killed_during_an_item_is_replaced_and_the_item_graded(pool: Pool) -> None:
    victim = live_worker(pool)
    os.kill(victim, signal.SIGSTOP)
    (future,) = submit(pool, EASY)
    os.kill(victim, signal.SIGKILL)
    assert future.result(60).outcome is Outcome.CORRECT
    assert pool.worker_pids != [victim]
    wait_until_gone(victim)


def test_an_answer_that_crashes_a_fresh_worker_too_is_too_complex(pool: Pool) -> None:
    (future,) = submit(pool, SLOW, timeout_s=60.0)
    killed: set[int] = set()
    while not future.done():
        for pid in set(pool.worker_pids) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.01)
    assert (future.result().outcome, future.result().reason) == (Outcome.TOO_COMPLEX, "crash")
    assert outcomes(grade(pool, EASY)) == [Outcome.CORRECT]


def test_a_killed_zygote_is_replaced_with_its_workers(pool: Pool) -> None:
    worker, zygote = live_worker(pool), pool.zygote_pid
    assert zygote is not None
    os.kill(worker, signal.SIGSTOP)
    (future,) = submit(pool, EASY)
    os.kill(zygote, signal.SIGKILL)
    assert future.result(60).outcome is Outcome.CORRECT
    assert pool.zygote_pid not in (None, zygote)
    wait_until_gone(zygote, worker)


def test_a_starved_worker_is_our_fault_and_not_the_answers(strict_pool: Pool) -> None:
    os.kill(live_worker(strict_pool), signal.SIGSTOP)
    (graded,) = grade(strict_pool, EASY, timeout_s=0.3)
    assert (graded.outcome, graded.reason) == (Outcome.UNVERIFIABLE, "overloaded")
    assert outcomes(grade(strict_pool, EASY)) == [Outcome.CORRECT]


def test_workers_are_replaced_after_their_share_of_items(strict_pool: Pool) -> None:
    alive = []
    for _ in range(4):
        assert outcomes(grade(strict_pool, EASY)) == [Outcome.CORRECT]
        time.sleep(0.05)
        alive += strict_pool.worker_pids
    assert len(alive) == 2
    assert len(set(alive)) == 2


def test_a_full_queue_refuses_the_whole_batch(strict_pool: Pool) -> None:
    with pytest.raises(
        PlatformError, match="The queue is full: 0 of 2 wait, 3 were submitted"
    ) as caught:
        submit(strict_pool, EASY, EASY, EASY)
    assert caught.value.code == "busy"
    assert outcomes(grade(strict_pool, EASY, WRONG)) == [Outcome.CORRECT, Outcome.INCORRECT]


def test_what_cannot_be_dispatched_in_time_is_unverifiable(pool: Pool) -> None:
    (future,) = pool.submit([to_request(*EASY)], timeout_s=3.0, expires_at=time.monotonic() - 1)
    assert (future.result(60).outcome, future.result().reason) == (
        Outcome.UNVERIFIABLE,
        "overloaded",
    )


def test_closing_ends_every_process_and_every_wait() -> None:
    pool = Pool(PoolConfig(workers=2))
    pool.start()
    pids = [*pool.worker_pids, pool.zygote_pid or 0]
    futures = submit(pool, SLOW, SLOW, EASY, EASY, timeout_s=60.0)
    pool.close()
    assert {future.result(1).reason for future in futures} <= {"shutting_down", ""}
    assert futures[0].result().outcome is Outcome.UNVERIFIABLE
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(PlatformError, match="shutting down"):
        submit(pool, EASY)
    pool.close()


def item(
    reference_answer: str, answer: str, finish_reason: FinishReason = FinishReason.STOP
) -> Item:
    return Item("item", reference_answer, rf"so \boxed{{{answer}}}", finish_reason)


@pytest.fixture
def verifier(pool: Pool) -> Verifier:
    return Verifier(pool, cache_size=4)


def verify(verifier: Verifier, *items: Item, timeout_s: float = 30.0) -> list[tuple[Outcome, str]]:
    graders = make_graders(["accuracy", "boxed", "format"])
    verdicts = verifier.verify(items, graders, Profile.RL, timeout_s=timeout_s, expires_at=math.inf)
    for verdict in verdicts:
        assert set(verdict.rewards) == (
            {grader.name for grader in graders} if verdict.outcome.is_scored else set()
        )
        assert verdict.rewards.get("accuracy", 0.0) == float(verdict.outcome is Outcome.CORRECT)
        assert "math-verify-0.9.0" in verdict.verifier_version
    return [(verdict.outcome, verdict.reason) for verdict in verdicts]


def test_one_bomb_in_a_batch_never_shifts_or_spoils_its_neighbours(verifier: Verifier) -> None:
    batch = [
        item(*EASY),
        item(*WRONG),
        item(*SLOW),
        item("72", "72"),
        item("72", "7"),
        item(*EASY),
        item("42", "9^{9^{9^9}}"),
    ]
    assert verify(verifier, *batch, timeout_s=1.0) == [
        (Outcome.CORRECT, ""),
        (Outcome.INCORRECT, ""),
        (Outcome.TOO_COMPLEX, "deadline"),
        (Outcome.CORRECT, ""),
        (Outcome.INCORRECT, ""),
        (Outcome.CORRECT, ""),
        (Outcome.INCORRECT, ""),
    ]


def test_every_outcome_has_its_cause(verifier: Verifier) -> None:
    batch = [
        item("5", "5", FinishReason.LENGTH),
        item("5", "5", FinishReason.ABORTED),
        item("", "5"),
        Item("item", "5", "no box", FinishReason.STOP),
        Item("item", "5", r"\boxed{5", FinishReason.STOP),
        Item("item", "5", r"<think>\boxed{5}", FinishReason.STOP),
    ]
    assert verify(verifier, *batch) == [
        (Outcome.TRUNCATED, "length"),
        (Outcome.ABORTED, ""),
        (
            Outcome.UNVERIFIABLE,
            "grader:accuracy:no_reference_answer (the row has no reference answer)",
        ),
        (Outcome.NO_ANSWER, "nothing_found"),
        (Outcome.TRUNCATED, "unclosed_box"),
        (Outcome.NO_ANSWER, "unclosed_think"),
    ]


def test_nothing_is_compared_that_no_grader_asks_for(verifier: Verifier) -> None:
    """An invalid reference answer and an answer that is none then do no harm."""
    batch = [item("9^{9^{9^9}}", "5"), Item("item", "5", "no box", FinishReason.STOP)]
    verdicts = verifier.verify(
        batch, make_graders(["format"]), Profile.RL, timeout_s=30.0, expires_at=math.inf
    )
    assert [(v.outcome, v.reason, v.rewards["format"]) for v in verdicts] == [
        (Outcome.SCORED, "", 1.0),
        (Outcome.SCORED, "", 0.0),
    ]


def test_equal_pairs_of_a_batch_are_compared_once(strict_pool: Pool) -> None:
    """Fifty would not fit into this pool's queue of two."""
    assert (
        verify(Verifier(strict_pool, cache_size=1), *[item(*EASY)] * 50)
        == [(Outcome.CORRECT, "")] * 50
    )


def test_certain_verdicts_are_remembered_and_deadlines_are_not(
    pool: Pool, verifier: Verifier
) -> None:
    worker = live_worker(pool)
    assert verify(verifier, item(*EASY), item(*WRONG)) == [
        (Outcome.CORRECT, ""),
        (Outcome.INCORRECT, ""),
    ]
    os.kill(worker, signal.SIGSTOP)
    try:
        assert verify(verifier, item(*WRONG), item(*EASY)) == [
            (Outcome.INCORRECT, ""),
            (Outcome.CORRECT, ""),
        ]
    finally:
        os.kill(worker, signal.SIGCONT)
    assert verify(verifier, item(*SLOW), timeout_s=0.3) == [(Outcome.TOO_COMPLEX, "deadline")]
    assert pool.worker_pids != [worker]
    assert verify(verifier, item(*SLOW), timeout_s=0.3) == [(Outcome.TOO_COMPLEX, "deadline")]


def test_the_memory_of_verdicts_is_bounded(pool: Pool) -> None:
    verifier = Verifier(pool, cache_size=1)
    verify(verifier, item("x+1", "1+x"))
    verify(verifier, item("x+2", "2+x"))
    assert verify(verifier, item("x+1", "1+x")) == [(Outcome.CORRECT, "")]


def test_the_serving_process_imports_neither_sympy_nor_torch() -> None:
    code = (
        "import sys, services.reward.__main__;"
        "print([name for name in ('sympy', 'math_verify', 'torch', 'transformers') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_caller_that_hangs_up_frees_the_worker_and_loses_its_queue(pool: Pool) -> None:
    cancellation = Cancellation()
    dropped = pool.submit(
        [to_request(*SLOW), to_request(*EASY)],
        timeout_s=60.0,
        expires_at=math.inf,
        cancellation=cancellation,
    )
    wait_until(lambda: pool.waiting == 1)
    cancellation.cancel()
    assert {(one.result(60).outcome, one.result().reason) for one in dropped} == {
        (Outcome.UNVERIFIABLE, "cancelled")
    }
    assert outcomes(grade(pool, EASY)) == [Outcome.CORRECT]
    assert count(pool, "dirl_reward_kills_total", reason="cancelled") == 1


@pytest.mark.parametrize("reason", ["cancelled", "closed"])
def test_a_batch_that_nobody_waits_for_is_read_no_further(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """The rules run in the serving process, which must end within seconds whatever it was given."""
    pool = Pool(PoolConfig(workers=1))
    pool.start()
    cancellation, read = Cancellation(), []

    def extract_and_leave(response: str, profile: Profile) -> Extraction:
        read.append(response)
        cancellation.cancel() if reason == "cancelled" else pool.close()
        return extract(response, profile)

    monkeypatch.setattr("services.reward.verifier.extract", extract_and_leave)
    items = [Item(str(n), "1", rf"\boxed{{{n}}}", FinishReason.STOP) for n in range(3)]
    with pytest.raises(PlatformError) as caught:
        Verifier(pool, cache_size=4).verify(
            items, make_graders(["accuracy"]), Profile.RL, timeout_s=5.0, expires_at=math.inf,
            cancellation=cancellation,
        )  # fmt: skip
    pool.close()

    assert caught.value.code == "verifier_unavailable"
    assert read == [items[0].response]


def test_a_refusal_says_when_to_come_back() -> None:
    pool = Pool(PoolConfig(workers=1, queue_size=1))
    pool.start()
    try:
        (slow,) = submit(pool, SLOW, timeout_s=30.0)
        wait_until(lambda: pool.waiting == 0)
        submit(pool, EASY)
        with pytest.raises(PlatformError, match="1 of 1 wait") as caught:
            submit(pool, EASY)
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > 0
        assert not slow.done()
    finally:
        pool.close()


def test_draining_waits_for_what_is_open_and_no_longer(pool: Pool) -> None:
    futures = submit(pool, EASY, WRONG, ("x+3", "3+x"))
    pool.drain(60.0)
    assert all(future.done() for future in futures)
    (slow,) = submit(pool, SLOW, timeout_s=2.0)
    pool.drain(0.01)
    assert not slow.done()
    slow.result(60)


def test_a_batch_that_the_end_overtakes_fails_as_a_whole_so_that_it_is_sent_elsewhere() -> None:
    pool = Pool(PoolConfig(workers=1))
    pool.start()
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(
            verify, Verifier(pool, cache_size=1), item(*SLOW), item(*EASY), timeout_s=60.0
        )
        wait_until(lambda: pool.waiting == 1)
        pool.close()
        with pytest.raises(PlatformError, match="Retry the request") as caught:
            call.result(60)
    assert caught.value.code == "verifier_unavailable"


def test_what_happened_is_counted(pool: Pool) -> None:
    verifier = Verifier(pool, cache_size=4)
    names = ("dirl_reward_duplicates_total", "dirl_reward_latency_seconds_count")
    before = [count(pool, name) for name in names]
    graded = count(pool, "dirl_reward_verifications_total", outcome="correct")
    hits = count(pool, "dirl_reward_cache_lookups_total", result="hit")
    kills = count(pool, "dirl_reward_kills_total", reason="deadline")
    verify(verifier, item("y+1", "1+y"), item("y+1", "1+y"), item("72", "72"))
    verify(verifier, item("y+1", "1+y"))
    verify(verifier, item(*SLOW), timeout_s=0.3)
    assert [count(pool, name) - old for name, old in zip(names, before, strict=True)] == [1, 2]
    assert count(pool, "dirl_reward_verifications_total", outcome="correct") - graded == 4
    assert count(pool, "dirl_reward_cache_lookups_total", result="hit") - hits == 1
    assert count(pool, "dirl_reward_kills_total", reason="deadline") - kills == 1
    assert count(pool, "dirl_reward_queue_depth") == 0


def count(pool: Pool, name: str, **labels: str) -> float:
    return pool.metrics.registry.get_sample_value(name, labels) or 0.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
