"""The model under training and its optimizer: what every rank of a learner holds and changes in step with the others.

Rank 0 calls the methods; each is announced to the other ranks, which run the same method with the same arguments on
their own part. Everything else of an attempt (streams, journal, ledger, checkpoints) is rank 0's alone.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from services.common.job_spec import JobSpec, resolve_decoding
from services.common.model.loading import LoadedModel, load_model
from services.common.model.state import export_state
from services.trainer.learner.optimizer_state import export_optimizer, import_optimizer
from services.trainer.policy import Policy, evaluate_sft_loss, train_sft_batch
from services.trainer.ranks import ALONE, Ranks
from services.trainer.reference import FrozenReference
from services.trainer.rl_update import RlRules, train_rl_batch
from services.trainer.schedule import make_optimizer, set_learning_rate
from services.trainer.sft import SftExample, noise_generator
from services.trainer.trajectory_rows import Sample

P = ParamSpec("P")
R = TypeVar("R")


def _on_every_rank(method: Callable[Concatenate["Trainee", P], R]) -> Callable[Concatenate["Trainee", P], R]:
    """Announce the call to the ranks that follow, then make it."""

    @wraps(method)
    def announced(trainee: "Trainee", /, *args: P.args, **kwargs: P.kwargs) -> R:
        if trainee.ranks.rank == 0:
            trainee.ranks.from_leader((method.__name__, args, kwargs))
        return method(trainee, *args, **kwargs)

    return announced


class Trainee:
    """One model, trained stage after stage."""

    def __init__(self, loaded: LoadedModel, spec: JobSpec, ranks: Ranks = ALONE) -> None:
        self.loaded, self.spec, self.ranks = loaded, spec, ranks
        self._policy = Policy(loaded=loaded, trainer=spec.trainer, ranks=ranks)
        self._optimizer: torch.optim.Optimizer | None = None

    @_on_every_rank
    def begin(self, stage: Literal["sft", "rl"], optimizer_file: Path | None, reference: Path | None) -> None:
        """A stage's optimizer: a fresh one, or with the state in a checkpoint's file when the stage goes on.

        `reference` is the directory of the model that the stage is not to stray far from, where it needs one.
        """
        self._policy.reference = None if reference is None else FrozenReference(self._frozen(reference))
        self._optimizer = make_optimizer(self.loaded.model, self.spec.optim_of(stage))
        if optimizer_file is not None:
            import_optimizer(self.loaded.model, self._optimizer, load_file(optimizer_file))

    @_on_every_rank
    def train_sft(self, examples: Sequence[SftExample], step: int, lr: float) -> dict[str, float]:
        """One supervised step; `step` chooses the noise. Returns what train_sft_batch does."""
        optim, generator = self.spec.optim_of("sft"), noise_generator(self.spec.seed, step)
        return train_sft_batch(self._policy, self._at(lr), examples, generator, self.spec.sft, optim)

    @_on_every_rank
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
        rules = RlRules(rl=spec.rl, sampling=spec.sampling, optim=spec.optim_of("rl"), decoding=decoding)
        return train_rl_batch(self._policy, self._at(lr), samples, rules)

    @_on_every_rank
    def sft_loss(self, examples: Sequence[SftExample]) -> float:
        """Supervised loss of held-out examples, with the same draw of noise every time, so that it can be compared."""
        return evaluate_sft_loss(self._policy, examples, noise_generator(self.spec.seed, 0), self.spec.sft)

    @_on_every_rank
    def revise(self, spec: JobSpec) -> None:
        """Go by another revision of the spec from now on."""
        self.spec = spec

    @_on_every_rank
    def tensors(self) -> dict[str, Tensor]:
        """The weights by checkpoint name; views of the model's own tensors, valid until the next step."""
        return export_state(self.loaded.model)

    @_on_every_rank
    def moments(self) -> dict[str, Tensor]:
        """The optimizer's state by name; empty before the stage's first step."""
        return {} if self._optimizer is None else export_optimizer(self.loaded.model, self._optimizer)

    def dismiss(self) -> None:
        """Let the ranks that follow end."""
        self.ranks.from_leader(None)

    def follow(self) -> None:
        """Do what rank 0 does until it dismisses this rank."""
        call: tuple[str, Any, Any] | None
        while (call := self.ranks.from_leader()) is not None:
            name, args, kwargs = call
            getattr(self, name)(*args, **kwargs)

    def _frozen(self, path: Path) -> LoadedModel:
        weight = next(self.loaded.model.parameters())
        frozen = load_model(path, weight.dtype, weight.device)
        frozen.model.requires_grad_(False)
        return frozen

    def _at(self, lr: float) -> torch.optim.Optimizer:
        assert self._optimizer is not None, "a stage begins before it trains"
        set_learning_rate(self._optimizer, lr)
        return self._optimizer
