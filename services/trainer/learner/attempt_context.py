"""What the parts of a running attempt share: the job, the model, the counters and the stop signal."""

import resource
import sys
from dataclasses import dataclass, field
from typing import Final

import torch

from services.common.events import EventType
from services.common.job_metrics import JobMetric
from services.common.job_spec import JobSpec
from services.common.model.loading import LoadedModel
from services.trainer.learner.archiving import Archiver
from services.trainer.learner.checkpointing import Checkpointer
from services.trainer.learner.journal import Reporter
from services.trainer.learner.lifecycle import StopSignal
from services.trainer.learner.parity import ParityGate
from services.trainer.learner.request import LearnerRequest
from services.trainer.learner.rollouts import Rollouts
from services.trainer.learner.state import RunState
from services.trainer.learner.step_log import StepLog
from services.trainer.learner.weight_snapshot import WeightSnapshot
from services.trainer.training.policy_model import PolicyModel

_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


@dataclass
class AttemptContext:
    """One attempt, loaded and ready to train."""

    request: LearnerRequest
    spec: JobSpec
    policy_model: PolicyModel
    state: RunState
    report: Reporter
    stop: StopSignal
    checkpointer: Checkpointer
    step_log: StepLog
    rollouts: Rollouts | None
    """None when the spec needs no rollouts."""
    resumed_from: int = 0
    """Global step of the checkpoint that the attempt started from; 0 for none."""
    revision: int = 0
    """Newest revision of the spec that the attempt has applied."""
    gate: ParityGate | None = None
    """What replicas must reproduce at every weight version; None without rollouts."""
    stage_steps: dict[str, int] = field(default_factory=dict)
    """Optimizer steps of each stage, once known."""
    archiver: Archiver | None = None
    """Copies checkpoints to the object store; None without one."""
    _weights: WeightSnapshot | None = None

    @property
    def loaded(self) -> LoadedModel:
        """The model under training, with its tokenizer and block length."""
        return self.policy_model.loaded

    def weights(self) -> WeightSnapshot:
        """The current weights under checkpoint names, with their probe; the version is the global
        step.
        """
        version = self.state.global_step
        # Gathering sharded weights and scoring the probe are collective and cost seconds: once per
        # version, however often replicas ask.
        if self._weights is None or self._weights.version != version:
            probe = None if self.gate is None else self.gate.probe(self.policy_model)
            self._weights = WeightSnapshot(version, self.policy_model.export_weights(), probe)
        return self._weights

    def progress(self, stage: str) -> None:
        """Emit PROGRESS of the running stage and of the job."""
        self.report.journal.emit(
            EventType.PROGRESS,
            {
                "stage": stage,
                "stage_step": self.state.stage_step,
                "stage_steps": self.stage_steps[stage],
                "step": self.state.global_step,
                "total_steps": sum(self.stage_steps.values()),
            },
        )


def training_performance(context: AttemptContext, answer_tokens: int) -> dict[str, float]:
    """Throughput and device utilisation of the step's updates on so many answer tokens."""
    seconds = max(context.report.seconds(JobMetric.TIME_TRAIN_S), 1e-9)
    return {
        JobMetric.PERF_TRAINER_TOKENS_PER_S: answer_tokens / seconds,
        **context.policy_model.take_work().metrics(seconds),
    }


def peak_memory_gib() -> float:
    """Largest resident memory of the process so far, or on CUDA the largest allocation."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT / 2**30
