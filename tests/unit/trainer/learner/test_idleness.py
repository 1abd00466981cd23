"""For how long engines had nothing to do."""

from typing import Any

import pytest

from services.trainer.learner.idleness import Idleness


class Engines:
    """Two replicas and a clock."""

    count = 2

    def __init__(self) -> None:
        self.busy, self.now = 100.0, 1000.0

    def poll(self) -> None:
        """Nothing changes by asking."""

    def busy_seconds(self) -> float:
        """Of both together."""
        return self.busy

    def pass_by(self, seconds: float, *, busy: float) -> None:
        """Time passes, of which both together compute so much."""
        self.now, self.busy = self.now + seconds, self.busy + busy


def steps(engines: Any, *, overlapped: bool) -> list[dict[str, float]]:
    """Two steps: 10 s of gathering with 15 s of computing between the two engines, then 6 s of
    training.
    """
    idleness = Idleness(engines, overlapped=overlapped, clock=lambda: engines.now)
    found = []
    for _ in range(2):
        idleness.begin()
        engines.pass_by(10.0, busy=15.0)
        found.append(idleness.end())
        engines.pass_by(6.0, busy=8.0 if overlapped else 0.0)
    return found


def test_on_policy_engines_idle_within_the_gathering_and_wait_through_the_training() -> None:
    first, second = steps(Engines(), overlapped=False)

    # 15 of 2 * 10 engine seconds; then 6 s of training and 10 s of which each computed 7.5.
    assert first == {"perf/rollout_idle_ratio": pytest.approx(0.25)}
    assert second == {
        "perf/rollout_idle_ratio": pytest.approx(0.25),
        "time/wait_for_trainer_s": pytest.approx(8.5),
    }


def test_overlapped_the_whole_step_counts() -> None:
    _, second = steps(Engines(), overlapped=True)

    # 8 + 15 of 2 * 16 engine seconds.
    assert second["perf/rollout_idle_ratio"] == pytest.approx(1 - 23 / 32)
    assert second["time/wait_for_trainer_s"] == pytest.approx(16 - 23 / 2)


def test_a_restarted_replica_leaves_the_numbers_out() -> None:
    engines = Engines()
    idleness = Idleness(engines, overlapped=False, clock=lambda: engines.now)  # type: ignore[arg-type]
    idleness.begin()
    engines.pass_by(10.0, busy=-50.0)

    assert idleness.end() == {}
