"""Kept trajectories as rows of a data file: what supervised fine-tuning, rejection sampling and
distillation train on.
"""

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from tempfile import TemporaryFile
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select, tuple_

from services.api.db.jobs import get_job
from services.api.db.record_tables import TrajectoryGroup
from services.api.schemas.trajectories import TrajectorySelection
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.trajectories import is_selected, select_groups, summarize

_GROUPS_PER_READ: Final = 10
_ROWS_PER_READ: Final = 500
"""Also of a row group of Parquet."""
_PART_BYTES: Final = 1 << 20
_SUMMARY: Final = (
    "id", "job_id", "attempt", "step", "group_id", "response_index", "purpose", "disposition",
    "outcome", "reward", "rewards", "advantage", "finish_reason", "num_steps", "weight_version",
)  # fmt: skip
_SCHEMA: Final = pa.schema(
    {
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "completion": pa.string(),
        "answer": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "unmask_step": pa.list_(pa.int32()),
        "id": pa.string(),
        "job_id": pa.string(),
        "attempt": pa.int32(),
        "step": pa.int64(),
        "group_id": pa.string(),
        "response_index": pa.int32(),
        "purpose": pa.string(),
        "disposition": pa.string(),
        "outcome": pa.string(),
        "reward": pa.float64(),
        "rewards": pa.map_(pa.string(), pa.float64()),
        "advantage": pa.float64(),
        "finish_reason": pa.string(),
        "num_steps": pa.int32(),
        "weight_version": pa.int32(),
    }
)


def iter_training_rows(
    plane: ControlPlane, job_id: str, selection: TrajectorySelection
) -> Iterator[dict[str, Any]]:
    """Yield the kept trajectories of a job by step, group and index, each as a row that can be trained on:
    `messages` (the prompt turns), `completion`, `answer`, and the recorded order of `sft.noise = "trace"`.

    Left out are responses that were not graded, and those of a prompt whose row was too long to be
    recorded. Raises PlatformError("not_found").
    """
    with plane.database.begin() as session:
        get_job(session, job_id)
    return (
        row
        for group in _iter_groups(plane, job_id, selection)
        for row in _to_rows(group, selection)
    )


def iter_json_lines(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the rows as JSON lines, several at a time."""
    while lines := [json.dumps(row) + "\n" for row in islice(rows, _ROWS_PER_READ)]:
        yield "".join(lines).encode()


def make_parquet(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Return a Parquet file of the rows, in parts."""
    # Without a name: nothing of it is left, however the request ends.
    file = TemporaryFile()  # noqa: SIM115  (read after the return)
    with pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        while batch := list(islice(rows, _ROWS_PER_READ)):
            pairs = [{**row, "rewards": list(row["rewards"].items())} for row in batch]
            writer.write_table(pa.Table.from_pylist(pairs, _SCHEMA))
    file.seek(0)
    return iter(partial(file.read, _PART_BYTES), b"")


def _iter_groups(
    plane: ControlPlane, job_id: str, selection: TrajectorySelection
) -> Iterator[TrajectoryGroup]:
    """Each read in a transaction of its own: the reader of a download may be slow."""
    place = tuple_(TrajectoryGroup.step, TrajectoryGroup.group_id)
    wanted = select_groups(select(TrajectoryGroup), job_id, selection)
    ordered = wanted.order_by(TrajectoryGroup.step, TrajectoryGroup.group_id)
    last: TrajectoryGroup | None = None
    while True:
        statement = ordered if last is None else ordered.where(place > (last.step, last.group_id))
        with plane.database.begin() as session:
            groups = session.scalars(statement.limit(_GROUPS_PER_READ)).all()
        yield from groups
        if len(groups) < _GROUPS_PER_READ:
            return
        last = groups[-1]


def _to_rows(group: TrajectoryGroup, selection: TrajectorySelection) -> Iterator[dict[str, Any]]:
    recorded = group.payload["group"]
    messages = (recorded.get("row") or {}).get("messages")
    if messages is None:
        return
    for index, trajectory in enumerate(recorded["trajectories"]):
        summary = summarize(group, index)
        if summary["outcome"] is None or not is_selected(summary, selection):
            continue
        yield {
            "messages": messages,
            "completion": trajectory["text"],
            "answer": recorded["reference_answer"] or None,
            "token_ids": trajectory["token_ids"],
            "unmask_step": trajectory["unmask_step"],
            **{name: summary[name] for name in _SUMMARY},
        }
