"""The demo's results, from made-up events and evaluations."""

import pytest

from services.api.cli.demo_report import Accuracy, accuracy_after, largest_gap, stage_seconds
from services.api.schemas.records import EvaluationView, EventView
from tests.support.views import make_evaluation_view, make_event_view


def _phase(time: float, stage: str, phase: str) -> EventView:
    return make_event_view("phase", {"phase": phase, "stage": stage, "waiting_for": None}, time)


def _evaluation(stage: str, step: int, accuracy: float, attempt: int = 1) -> EvaluationView:
    results = {
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.1,
        "accuracy_high": accuracy + 0.1,
    }
    return make_evaluation_view(stage, step, results, attempt)


def test_every_second_belongs_to_one_stage_or_to_evaluation() -> None:
    # sft 100..110, evaluated 110..113, rl 113..120 and 122..130 around an evaluation of 2 s.
    events = [
        _phase(100, "sft", "train"),
        _phase(110, "sft", "eval"),
        _phase(113, "rl", "rollout"),
        _phase(120, "rl", "eval"),
        _phase(122, "rl", "train"),
    ]

    assert stage_seconds(events, finished_at=130.0) == {"sft": 10.0, "rl": 15.0, "eval": 5.0}


def test_the_last_evaluation_of_a_stage_counts() -> None:
    evals = [
        _evaluation("rl", 640, 0.75),
        _evaluation("sft", 600, 0.5),
        _evaluation("rl", 620, 0.25),
    ]

    assert accuracy_after(evals, "rl", "eval") == Accuracy(0.75, 0.65, 0.85)


def test_the_jobs_own_decoding_counts_and_not_the_thresholds_measured_before_it() -> None:
    evals = [_evaluation("eval", 600, 0.25), _evaluation("eval", 600, 0.5)]

    assert accuracy_after(evals, "eval") == Accuracy(0.5, 0.4, 0.6)


def test_the_gap_is_the_largest_of_all_steps_and_missing_when_none_was_measured() -> None:
    def metrics(**values: float) -> EventView:
        named = {f"train/{name}": value for name, value in values.items()}
        return make_event_view("metrics", {"values": named})

    assert (
        largest_gap(
            [metrics(loss=9.0), metrics(logprob_gap_max=2e-6), metrics(logprob_gap_max=1e-6)]
        )
        == 2e-6
    )
    assert largest_gap([metrics(loss=9.0)]) is None


def test_an_accuracy_is_shown_with_its_interval() -> None:
    assert str(Accuracy(0.762, 0.7229, 0.797)) == "76.2%  (95 % interval 72.3% to 79.7%)"


def test_a_missing_stage_is_an_error_and_no_number() -> None:
    with pytest.raises(ValueError, match="empty"):
        accuracy_after([_evaluation("sft", 600, 0.5)], "rl")
