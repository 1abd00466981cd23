"""The step log: which prompt positions each optimizer step trained and dropped, apart from ledger
and checkpoint.

One file per attempt, `journal/steps-0001.jsonl`: a header naming the step the attempt resumed from,
then one line per step, fsynced before the step can enter a checkpoint. Read together, the files
give the surviving lineage: a later attempt that resumed from step s undoes every earlier step
beyond s.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from services.common.checkpoint.format import ORIGIN, list_checkpoints, read_manifest
from services.trainer.learner.ledger import PromptResult, StepRecord


class StepLog:
    """The one writer of an attempt's step log."""

    def __init__(self, job_dir: Path, attempt: int, *, resumed_from: int) -> None:
        """Create the file; `resumed_from` is the global step of the checkpoint that was loaded, 0
        for none.
        """
        path = _path(job_dir, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("x", encoding="utf-8")
        self._write({"attempt": attempt, "resumed_from": resumed_from})

    def append(self, record: StepRecord, group_ids: list[str]) -> None:
        """Log a step that has just changed the weights; `group_ids` are those of the trained
        groups.
        """
        self._write(
            {
                "stage": record.stage,
                "step": record.step,
                "trained": record.trained,
                "dropped": [
                    [position, reason] for position, reason in sorted(record.dropped.items())
                ],
                "groups": group_ids,
                "results": [astuple(result) for result in record.results],
            }
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()
        # Before the step can enter a checkpoint: the certificate compares the two.
        os.fsync(self._file.fileno())


def surviving_records(
    job_dir: Path, *, before_attempt: int, resumed_from: int
) -> tuple[list[StepRecord], list[int]]:
    """Steps that a resume from global step `resumed_from` builds on, and steps that it undoes.

    Returns the steps of earlier attempts that are part of the loaded weights, in order, and the
    global steps that were still part of the job until now and no longer are.
    """
    records: list[StepRecord] = []
    undone: list[int] = []
    known: float = math.inf  # steps beyond it were undone by a former resume
    # Newest attempt first: what it resumed from says which steps of the older ones were undone.
    for attempt in range(before_attempt - 1, 0, -1):
        lines = list(_whole_lines(_path(job_dir, attempt)))
        if not lines:
            continue
        steps = [
            StepRecord(
                stage=line["stage"],
                step=line["step"],
                trained=tuple(line["trained"]),
                dropped=dict(line["dropped"]),
                # Absent in logs of earlier releases.
                results=tuple(PromptResult(*result) for result in line.get("results", ())),
            )
            for line in lines[1:]
            if line["step"] <= known
        ]
        records = [step for step in steps if step.step <= resumed_from] + records
        undone = [step.step for step in steps if step.step > resumed_from] + undone
        known = min(known, lines[0]["resumed_from"])
    return _parent_records(job_dir) + [
        record for record in records if record.step <= resumed_from
    ], undone


def has_step_log(job_dir: Path, attempt: int) -> bool:
    """Whether the attempt came as far as its first step."""
    return _path(job_dir, attempt).exists()


def _parent_records(job_dir: Path) -> list[StepRecord]:
    """Steps that the parent of a forked job made up to the checkpoint that the job started from."""
    checkpoints = list_checkpoints(job_dir / ORIGIN / "checkpoints")
    if not checkpoints:
        return []
    point = read_manifest(checkpoints[-1])
    records, _ = surviving_records(
        job_dir / ORIGIN, before_attempt=point.attempt + 1, resumed_from=point.global_step
    )
    return records


def _path(job_dir: Path, attempt: int) -> Path:
    return job_dir / "journal" / f"steps-{attempt:04d}.jsonl"


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file. A killed writer may leave a partial last one; its step
    is in no checkpoint.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
