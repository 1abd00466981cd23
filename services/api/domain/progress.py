"""How far a job is, and when it will be done at the pace of its current stage."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """The last progress event of a job, with the first one of the same stage and attempt as the
    pace's origin.
    """

    stage: str
    stage_step: int
    stage_steps: int
    step: int
    """Optimizer steps over all stages."""
    total_steps: int
    attempt: int
    time: float
    """Unix seconds of the event."""
    origin_step: int
    origin_time: float

    def eta_seconds(self) -> float | None:
        """Seconds from the event to the end, at the mean pace since the origin; None before a step
        was seen.
        """
        steps_seen = self.step - self.origin_step
        if steps_seen <= 0:
            return None
        return (self.time - self.origin_time) / steps_seen * max(0, self.total_steps - self.step)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for storage."""
        return asdict(self)


def advance(previous: Progress | None, data: dict[str, Any], attempt: int, time: float) -> Progress:
    """The progress after an event whose data is {stage, stage_step, stage_steps, step,
    total_steps}.
    """
    same_run = previous is not None and (previous.attempt, previous.stage) == (
        attempt,
        data["stage"],
    )
    origin_step, origin_time = (
        (previous.origin_step, previous.origin_time)
        if previous is not None and same_run
        else (data["step"], time)
    )
    return Progress(
        stage=data["stage"],
        stage_step=data["stage_step"],
        stage_steps=data["stage_steps"],
        step=data["step"],
        total_steps=data["total_steps"],
        attempt=attempt,
        time=time,
        origin_step=origin_step,
        origin_time=origin_time,
    )
