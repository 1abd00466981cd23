"""Responses of the API with defaults for what a test does not care about."""

from typing import Any

from services.api.schemas.files import FileView
from services.api.schemas.jobs import JobView
from services.api.schemas.records import EvaluationView, EventView


def make_job_view(state: str = "queued", **values: Any) -> JobView:
    """A job as the API returns it."""
    base: dict[str, Any] = {
        "id": "job_1",
        "created_at": 1_700_000_000,
        "started_at": None,
        "finished_at": None,
        "method": "pipeline",
        "model": "model_1",
        "suffix": None,
        "metadata": {},
        "attempt": 1,
        "phase": None,
        "stage": None,
        "waiting_for": None,
        "progress": None,
        "estimated_finish": None,
        "latest_metrics": {},
        "error": None,
        "result_checkpoint": None,
        "priority": 0,
        "revision": 0,
        "forked_from": None,
        "stalled": None,
        "shortage": None,
        "last_event_id": None,
        "spec_hash": "",
        "spec": {},
    }
    return JobView.model_validate({**base, "state": state, **values})


def make_event_view(kind: str, data: dict[str, Any], time: float = 0.0, step: int = 0) -> EventView:
    """An event of job_1."""
    fields = {"id": f"evt_{step}", "job_id": "job_1", "attempt": 1, "type": kind}
    return EventView.model_validate({**fields, "created_at": int(time), "time": time, "data": data})


def make_evaluation_view(
    stage: str, step: int, results: dict[str, Any], attempt: int = 1
) -> EvaluationView:
    """An evaluation of job_1."""
    fields = {"id": f"eval_1_{attempt}_{step}", "job_id": "job_1", "created_at": 1_700_000_000}
    own = {"attempt": attempt, "step": step, "stage": stage, "dataset": "validation"}
    return EvaluationView.model_validate({**fields, **own, "results": results})


def make_file_view(file_id: str) -> FileView:
    """An uploaded file."""
    fields = {"bytes": 1, "rows": 1, "filename": "rows.jsonl", "purpose": "fine-tune", "sha256": ""}
    return FileView.model_validate({"id": file_id, "created_at": 1_700_000_000, **fields})
