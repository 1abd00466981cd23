"""What a watched job looks like, and how it ends."""

import io

import pytest
from rich.console import Console

from services.api.cli.failure import CommandError
from services.api.cli.watching import failure_of, headline, watch_job
from services.api.schemas.jobs import JobView
from tests.support.views import make_job_view


def _running(stage: str, step: int, **metrics: float) -> JobView:
    progress = {
        "stage": stage,
        "stage_step": step,
        "stage_steps": 10,
        "step": step,
        "total_steps": 20,
    }
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return make_job_view(
        "running", stage=stage, phase="train", progress=progress, latest_metrics=named
    )


class ScriptedApi:
    """Answers with one prepared job after the other; an exception is raised."""

    def __init__(self, *answers: JobView | CommandError) -> None:
        self._answers = iter(answers)

    def job(self, job_id: str) -> JobView:
        assert job_id == "job_1"
        answer = next(self._answers)
        if isinstance(answer, CommandError):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.cli.watching._POLL_S", 0.0)


def _watch(api: ScriptedApi) -> tuple[JobView, list[str]]:
    text = io.StringIO()
    job = watch_job(api, "job_1", Console(file=text, width=200, highlight=False))  # type: ignore[arg-type]
    return job, text.getvalue().splitlines()


def test_without_a_terminal_every_change_of_state_or_stage_is_a_line() -> None:
    job, lines = _watch(
        ScriptedApi(
            make_job_view("queued"),
            make_job_view("queued"),
            _running("sft", 1, train__loss=2.5),
            _running("sft", 2, train__loss=2.0),
            _running("rl", 11, reward__mean=0.5, reward__accuracy=0.25),
            make_job_view("succeeded"),
        )
    )

    assert job.state == "succeeded"
    assert lines == [
        "job_1  queued",
        "job_1  running  sft 1/10  train  loss 2.500",
        "job_1  running  rl 11/10  train  reward 0.500  accuracy 25.0%",
        "job_1  succeeded",
    ]


def test_an_api_that_does_not_answer_for_a_moment_does_not_end_the_watch() -> None:
    job, _lines = _watch(
        ScriptedApi(CommandError("down", code="unreachable"), make_job_view("succeeded"))
    )

    assert job.state == "succeeded"


def test_a_refusal_ends_the_watch() -> None:
    with pytest.raises(CommandError, match="no such job"):
        _watch(ScriptedApi(CommandError("no such job", code="not_found")))


def test_a_failed_job_is_a_failure_with_its_own_message() -> None:
    failure = failure_of(
        make_job_view("failed", error={"code": "nan_loss", "message": "the loss is not a number"})
    )

    assert failure is not None
    assert str(failure) == "Job job_1 failed: the loss is not a number"
    assert failure.code == "nan_loss"


@pytest.mark.parametrize("state", ["succeeded", "paused"])
def test_a_job_that_is_done_or_paused_is_no_failure(state: str) -> None:
    assert failure_of(make_job_view(state)) is None


def test_the_headline_names_what_is_waited_for_and_a_second_attempt() -> None:
    assert (
        headline(make_job_view("queued", waiting_for="trainer", attempt=2))
        == "queued  waiting for trainer  attempt 2"
    )
