"""The model under training and its optimizer: what every rank of a learner holds and changes in
step with the others.

Rank 0 calls the methods; each is announced to the other ranks, which run the same method with the
same arguments on their own part. Everything else of an attempt (streams, journal, ledger,
checkpoints) is rank 0's alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from services.common.checkpoint.format import ADAPTER
from services.common.errors import PlatformError
from services.common.job_decoding import resolve_decoding
from services.common.job_spec import JobSpec
from services.common.model.loading import LoadedModel, load_model
from services.common.model.state import export_state, own_state
from services.common.trajectory import Float32s
from services.trainer.training import lora
from services.trainer.training.device_work import Work
from services.trainer.training.optimizer_state import export_optimizer, import_optimizer
from services.trainer.training.policy import (
    AdapterOffReferencePolicy,
    Policy,
    evaluate_sft_loss,
    response_logprobs,
    train_sft_batch,
)
from services.trainer.training.ranks import ALONE, Ranks
from services.trainer.training.reference_policy import FrozenReferencePolicy, ReferencePolicy
from services.trainer.training.rl_update import RlRules, train_rl_batch
from services.trainer.training.schedule import make_optimizer, set_learning_rate
from services.trainer.training.sft import SftExample, make_noise_generator
from services.trainer.training.sharding import gather_full, local_device
from services.trainer.training.trajectory_rows import Sample

P = ParamSpec("P")
R = TypeVar("R")


def _run_on_every_rank(
    method: Callable[Concatenate["PolicyModel", P], R],
) -> Callable[Concatenate["PolicyModel", P], R]:
    """Announce the call to the ranks that follow, then make it."""

    @wraps(method)
    def call_on_every_rank(policy_model: "PolicyModel", /, *args: P.args, **kwargs: P.kwargs) -> R:
        if policy_model.ranks.rank == 0:
            policy_model.ranks.broadcast((method.__name__, args, kwargs))
        return method(policy_model, *args, **kwargs)

    return call_on_every_rank


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds of a policy model."""

    weights: Mapping[str, Tensor]
    """By the names of services.common.model.state.own_state, an adapter merged in."""
    adapter: Mapping[str, Tensor]
    """The adapter by itself; empty without one."""
    moments: Mapping[str, Tensor]
    """State of the optimizer; empty before the stage's first step."""


class PolicyModel:
    """One model, trained stage after stage."""

    def __init__(
        self, loaded: LoadedModel, spec: JobSpec, ranks: Ranks = ALONE, base: Path | None = None
    ) -> None:
        """`base` is the directory that the model, or what lies under its adapter, was loaded from."""
        self._base = base
        self.loaded, self.spec, self.ranks = loaded, spec, ranks
        self._policy = Policy(loaded=loaded, trainer=spec.trainer, ranks=ranks)
        self._optimizer: torch.optim.Optimizer | None = None

    @classmethod
    def load(
        cls, model_path: Path, spec: JobSpec, checkpoint: Path | None, ranks: Ranks
    ) -> "PolicyModel":
        """The job's initial model, or where a checkpoint left it; with LoRA that is the initial
        model plus the stored adapter.
        """
        # With LoRA a checkpoint's weights are merged ones; the adapter must lie on the initial model.
        path = model_path if checkpoint is None or spec.lora is not None else checkpoint
        # Master weights are float32 also where products are bf16 (autocast in Policy.score): updates
        # of 1e-6 vanish in bf16.
        loaded = load_model(path, "float32", local_device(ranks))
        if spec.trainer.gradient_checkpointing:
            _recompute_activations(loaded.model)
        if spec.lora is not None:
            lora.attach_adapter(loaded, spec.lora, spec.seed)
            if checkpoint is not None:
                lora.restore_adapter(loaded.model, _adapter_tensors(checkpoint))
        return cls(loaded, spec, ranks, path)

    @_run_on_every_rank
    def begin_stage(
        self, stage: Literal["sft", "rl"], optimizer_file: Path | None, reference: Path | None
    ) -> None:
        """A stage's optimizer: a fresh one, or with the state in a checkpoint's file when the stage
        resumes.

        `reference` is the directory of the model that the stage is not to stray far from, where it
        needs one.
        """
        self._policy.reference = None if reference is None else self._load_reference(reference)
        self._optimizer = make_optimizer(self.loaded.model, self.spec.optim_of(stage))
        if optimizer_file is not None:
            import_optimizer(self.loaded.model, self._optimizer, load_file(optimizer_file))

    @_run_on_every_rank
    def train_sft(self, examples: Sequence[SftExample], step: int, lr: float) -> dict[str, float]:
        """One supervised step; `step` chooses the noise. Returns what train_sft_batch does."""
        optim, generator = self.spec.optim_of("sft"), make_noise_generator(self.spec.seed, step)
        return train_sft_batch(
            self._policy, self._optimizer_at(lr), examples, generator, self.spec.sft, optim
        )

    @_run_on_every_rank
    def train_rl(self, samples: Sequence[Sample], lr: float) -> dict[str, float]:
        """One reinforcement step; returns what train_rl_batch does."""
        spec, loaded = self.spec, self.loaded
        decoding = resolve_decoding(
            spec,
            block_size=loaded.block_size,
            mask_token_id=loaded.mask_token_id,
            stop_token_ids=loaded.stop_token_ids,
            evaluation=False,
        )
        rules = RlRules(
            rl=spec.rl, sampling=spec.sampling, optim=spec.optim_of("rl"), decoding=decoding
        )
        metrics = train_rl_batch(self._policy, self._optimizer_at(lr), samples, rules)
        if spec.resources.colocate:
            torch.cuda.empty_cache()  # replicas on this device take their memory again; nothing without one
        return metrics

    @_run_on_every_rank
    def sft_loss(self, examples: Sequence[SftExample]) -> float:
        """Supervised loss of held-out examples, with the same draw of noise every time, so that it
        can be compared.
        """
        return evaluate_sft_loss(
            self._policy, examples, make_noise_generator(self.spec.seed, 0), self.spec.sft
        )

    @_run_on_every_rank
    def revise(self, spec: JobSpec) -> None:
        """Use another revision of the spec from now on."""
        self.spec = spec

    @_run_on_every_rank
    def compute_logprobs(self, samples: Sequence[Sample]) -> list[Float32s]:
        """Log-probabilities [R] of given responses at temperature 1."""
        return response_logprobs(self._policy, samples)

    @_run_on_every_rank
    def export_weights(self) -> dict[str, Tensor]:
        """The weights by checkpoint name, an adapter merged in; they may be views, valid until the
        next step.
        """
        return export_state(self.loaded.model, self._merge_adapter(self._gather_state()))

    @_run_on_every_rank
    def take_snapshot(self) -> Snapshot:
        """Everything that a checkpoint holds of the model and its optimizer."""
        state = self._gather_state()
        moments = (
            {} if self._optimizer is None else export_optimizer(self.loaded.model, self._optimizer)
        )
        return Snapshot(self._merge_adapter(state), lora.adapter_tensors(state), moments)

    def take_work(self) -> Work:
        """Work of this rank since the last call."""
        work, self._policy.work = self._policy.work, Work()
        return work

    def follow_leader(self) -> None:
        """Make the calls that rank 0 makes, until it dismisses the ranks."""
        call: tuple[str, Any, Any] | None
        while (call := self.ranks.broadcast()) is not None:
            name, args, kwargs = call
            getattr(self, name)(*args, **kwargs)

    def _load_reference(self, path: Path) -> ReferencePolicy:
        # With LoRA on top of the reference itself, the adapter need only be switched off: no second
        # copy of the weights.
        if self.spec.lora is not None and path == self._base:
            return AdapterOffReferencePolicy(self._policy)
        weight = next(self.loaded.model.parameters())
        frozen = load_model(path, weight.dtype, weight.device)
        frozen.model.requires_grad_(False)
        return FrozenReferencePolicy(frozen)

    def _gather_state(self) -> dict[str, Tensor]:
        """The model's tensors, gathered from all ranks."""
        return {
            name: gather_full(tensor.detach())
            for name, tensor in own_state(self.loaded.model).items()
        }

    def _merge_adapter(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return state if self.spec.lora is None else lora.merge_adapter(self.loaded.model, state)

    def _optimizer_at(self, lr: float) -> torch.optim.Optimizer:
        assert self._optimizer is not None, "a stage begins before it trains"
        set_learning_rate(self._optimizer, lr)
        return self._optimizer


def _recompute_activations(model: PreTrainedModel) -> None:
    # Renamed by transformers 5.23; the GPU image may hold an older release.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False})
    model.train()  # layers recompute in training mode only; without dropout it changes nothing else


def _adapter_tensors(checkpoint: Path) -> dict[str, Tensor]:
    file = checkpoint / ADAPTER
    if not file.is_file():
        raise PlatformError(
            "checkpoint_invalid",
            f"Cannot resume from {checkpoint}: the job trains an adapter, and the checkpoint holds none.",
            hint="Resume with the `lora` that the job was started with.",
        )
    return load_file(file)
