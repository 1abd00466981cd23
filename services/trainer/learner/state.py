"""Progress of an attempt: the part of a checkpoint that is neither weights nor optimizer
(state.json).
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError, model_validator

from services.common.diffusion.config import Frozen
from services.common.errors import PlatformError
from services.common.job_metrics import JobMetric
from services.common.job_spec import CurriculumSpec, JobSpec
from services.trainer.learner.curriculum import PromptStatistics, choose_row
from services.trainer.learner.ledger import MixedOrder, PromptLedger, PromptOrder, StepRecord


class StoredRows(Frozen):
    """The rows that a stage's ledger positions refer to."""

    file_sha256: str
    """sha256 of the file, or of the digests of all files in a mixture."""
    num_rows: int
    mixture: tuple[tuple[int, float], ...] = ()
    """(rows, weight) of each file, when there are several."""

    def order(self, seed: int, stage: str) -> PromptOrder | MixedOrder:
        """Return the order in which the stage visits the rows."""
        key = f"{seed}:{stage}"
        return MixedOrder(key, self.mixture) if self.mixture else PromptOrder(key, self.num_rows)


class StoredStage(Frozen):
    """One stage's prompts."""

    rows: StoredRows
    ledger: dict[str, Any]
    chosen: tuple[tuple[int, int], ...] = ()
    """(position, row) of open positions that a sampler chose a row for."""
    results: tuple[tuple[float, ...], ...] = ()
    """Attempts and successes of the rows (services.trainer.learner.curriculum)."""


class Best(Frozen):
    """The step with the best value of the metric that decides which checkpoint is kept."""

    step: int
    """Global step."""
    metric: str
    value: float

    @model_validator(mode="before")
    @classmethod
    def _read_former(cls, data: Any) -> Any:
        """Read the form of before there was a choice of metrics: `{"step", "loss"}`."""
        if isinstance(data, dict) and "loss" in data:
            return {"step": data["step"], "metric": JobMetric.EVAL_LOSS, "value": data["loss"]}
        return data


class StoredState(Frozen):
    """state.json. Learning rate and noise are functions of seed and step, so no generator state is
    kept.
    """

    stage_index: int
    stage: str
    stage_step: int
    global_step: int
    seed: int
    stages: dict[str, StoredStage]
    best: Best | None = None
    """None before the metric was first measured."""


@dataclass
class StageLedger:
    """Order and ledger of one stage."""

    rows: StoredRows
    order: PromptOrder | MixedOrder
    ledger: PromptLedger
    statistics: PromptStatistics = field(default_factory=PromptStatistics)
    chosen: dict[int, int] = field(default_factory=dict)
    """Row of every open position that a sampler chose one for."""

    def row(self, position: int, curriculum: CurriculumSpec, key: str) -> int:
        """Return the row of an open position: once chosen, it stays. `key` names seed and stage."""
        if position not in self.chosen and curriculum.sampler == "uniform":
            return self.order.row(position)
        if position not in self.chosen:
            self.chosen[position] = choose_row(
                curriculum, self.order, position, self.statistics, key
            )
        return self.chosen[position]

    def close(self, record: StepRecord) -> None:
        """Close what a finished step trained and dropped, and count its results."""
        self.ledger.close(record)
        self.statistics.add(record.results)
        for position in (*record.trained, *record.dropped):
            self.chosen.pop(position, None)


@dataclass
class RunState:
    """Counters and ledgers of the running attempt."""

    stage_index: int = 0
    stage_step: int = 0
    """Steps of the current stage that are done."""
    global_step: int = 0
    """Steps of all stages that are done; also the version of the weights."""
    stages: dict[str, StageLedger] = field(default_factory=dict)
    best: Best | None = None
    """Lowest loss of the validations so far."""

    def to_stored(self, spec: JobSpec) -> StoredState:
        """Return the state that is written into a checkpoint."""
        return StoredState(
            stage_index=self.stage_index,
            stage=spec.method.stages[self.stage_index],
            stage_step=self.stage_step,
            global_step=self.global_step,
            seed=spec.seed,
            stages={
                name: StoredStage(
                    rows=stage.rows,
                    ledger=stage.ledger.to_json(),
                    chosen=tuple(sorted(stage.chosen.items())),
                    results=tuple(map(tuple, stage.statistics.to_json())),
                )
                for name, stage in self.stages.items()
            },
            best=self.best,
        )

    def enter_stage(self, name: str, spec: JobSpec, rows: StoredRows) -> StageLedger:
        """Return the stage's ledger: the resumed one, else a new one.

        Raises PlatformError `dataset_invalid` when the resumed one was kept for other rows.
        """
        stage = self.stages.setdefault(
            name, StageLedger(rows, rows.order(spec.seed, name), PromptLedger())
        )
        if stage.rows != rows:
            raise PlatformError(
                "dataset_invalid",
                f"Cannot resume stage {name}: its prompt ledger was kept for {stage.rows.num_rows} rows of a file with "
                f"sha256 {stage.rows.file_sha256}; now there are {rows.num_rows} rows of one with {rows.file_sha256}, "
                f"or other weights of a mixture ({stage.rows.mixture}, now {rows.mixture}).",
                hint="Restore the file, or submit a new job that starts from the exported checkpoint.",
            )
        return stage


def parse_state(text: str, spec: JobSpec) -> RunState:
    """Read state.json; raises PlatformError `checkpoint_invalid`, or `spec_invalid` when the job
    has other stages.
    """
    try:
        stored = StoredState.model_validate_json(text)
    except ValidationError as error:
        raise PlatformError(
            "checkpoint_invalid", f"Cannot read state.json of the checkpoint: {error}"
        ) from None
    # Seed and stages fix the order of the prompts; with others the ledger would mean other rows.
    _refuse_other_job(stored, spec)
    stages = {
        name: StageLedger(
            rows=stage.rows,
            order=stage.rows.order(stored.seed, name),
            ledger=PromptLedger.from_json(stage.ledger),
            statistics=PromptStatistics.from_json(stage.results),
            chosen=dict(stage.chosen),
        )
        for name, stage in stored.stages.items()
    }
    return RunState(stored.stage_index, stored.stage_step, stored.global_step, stages, stored.best)


def _refuse_other_job(stored: StoredState, spec: JobSpec) -> None:
    stages = spec.method.stages
    if (
        stored.seed == spec.seed
        and stored.stage_index < len(stages)
        and stages[stored.stage_index] == stored.stage
    ):
        return
    raise PlatformError(
        "spec_invalid",
        f"Cannot resume: the checkpoint was written in stage {stored.stage_index} ({stored.stage}) with seed "
        f"{stored.seed}; the job has the stages {list(stages)} and seed {spec.seed}.",
        hint="Resume with the spec that the job was started with.",
    )
