"""Progress of a job and its estimated time."""

from services.api.domain.progress import Progress, advance


def progress(step: int, stage: str = "rl") -> dict[str, object]:
    return {"stage": stage, "stage_step": step, "stage_steps": 10, "step": step, "total_steps": 10}


def test_the_estimate_is_the_mean_pace_times_what_is_left() -> None:
    begun = advance(None, progress(2), attempt=1, time=100.0)
    later = advance(begun, progress(6), attempt=1, time=120.0)

    # 4 steps in 20 s; 4 steps are left.
    assert later.eta_seconds() == 20.0


def test_there_is_no_estimate_before_a_step_was_seen() -> None:
    assert advance(None, progress(2), attempt=1, time=100.0).eta_seconds() is None


def test_the_pace_starts_anew_with_a_stage_and_with_an_attempt() -> None:
    begun = advance(None, progress(2), attempt=1, time=100.0)

    assert advance(begun, progress(6, stage="eval"), attempt=1, time=120.0).eta_seconds() is None
    assert advance(begun, progress(6), attempt=2, time=120.0).eta_seconds() is None


def test_progress_survives_storage() -> None:
    begun = advance(None, progress(2), attempt=1, time=100.0)

    assert Progress(**begun.to_json()) == begun
