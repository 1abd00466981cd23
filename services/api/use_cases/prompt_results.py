"""Pass rates of a job's prompts over time, from what its learner reported of every step."""

from collections.abc import Callable
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.db.record_tables import JobEvent
from services.api.schemas.records import PromptView
from services.common.events import EventType

PromptOrder = Literal["row", "hardest", "easiest"]
_KEYS: Final[dict[PromptOrder, Callable[[PromptView], Any]]] = {
    "row": lambda prompt: prompt.row,
    "hardest": lambda prompt: (prompt.pass_rate, prompt.row),
    "easiest": lambda prompt: (-prompt.pass_rate, prompt.row),
}


def read_prompt_results(session: Session, job_id: str, order: PromptOrder) -> list[PromptView]:
    """Return every prompt that a step of the job has used."""
    statement = (
        select(JobEvent.data)
        .where(JobEvent.job_id == job_id, JobEvent.type == EventType.PROMPT_RESULTS)
        .order_by(JobEvent.position)
    )
    # A step that was repeated after a resume replaces what the undone one reported.
    results_by_step = {data["step"]: data["results"] for data in session.scalars(statement)}
    prompts: dict[int, PromptView] = {}
    for step, results in sorted(results_by_step.items()):
        for row, attempts, successes, excerpt in results:
            prompt = prompts.setdefault(row, _make_empty(row, excerpt))
            prompt.attempts += attempts
            prompt.successes += successes
            prompt.pass_rate = prompt.successes / max(prompt.attempts, 1)
            prompt.steps.append(step)
            prompt.pass_rates.append(successes / max(attempts, 1))
    return sorted(prompts.values(), key=_KEYS[order])


def _make_empty(row: int, excerpt: str) -> PromptView:
    return PromptView(
        id=f"prompt_{row}",
        row=row,
        excerpt=excerpt,
        attempts=0,
        successes=0,
        pass_rate=0.0,
        steps=[],
        pass_rates=[],
    )
