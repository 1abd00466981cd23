"""Checkpoints of the learner: what goes into the directory, and how training resumes from it."""

import errno
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from services.common.checkpoint.format import (
    ADAPTER,
    ADAPTER_CONFIG,
    OPTIMIZER,
    ORIGIN,
    STATE,
    CheckpointHeader,
    CheckpointManifest,
    checkpoint_name,
    newest_valid,
)
from services.common.checkpoint.store import expired_checkpoints, write_checkpoint
from services.common.errors import PlatformError
from services.common.job_decoding import resolve_decoding
from services.common.model.loading import save_model
from services.common.model.state import export_state
from services.common.model_card import ModelCard
from services.common.weights import weight_digest
from services.trainer.learner.request import LearnerRequest
from services.trainer.learner.state import RunState, parse_state
from services.trainer.training.lora import describe_adapter
from services.trainer.training.policy_model import PolicyModel

_SPARE_BYTES: Final = 64 << 20
_OS_ERROR: Final = re.compile(r"os error (\d+)")


@dataclass(frozen=True)
class StoredCheckpoint:
    """A complete checkpoint on disk."""

    path: Path
    manifest: CheckpointManifest


@dataclass(frozen=True)
class ResumePoint(StoredCheckpoint):
    """The checkpoint an attempt continues from."""

    state: RunState

    @property
    def optimizer_file(self) -> Path | None:
        """State of the optimizer; None when none was stored."""
        return self.path / OPTIMIZER if OPTIMIZER in self.manifest.files else None


class Checkpointer:
    """Writes the checkpoints of one attempt."""

    def __init__(self, request: LearnerRequest, card: ModelCard, parent: Path | None) -> None:
        """`parent` is the checkpoint that the attempt resumed from."""
        self._request, self._spec, self._card = request, request.spec, card
        self._parent = parent

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint of this lineage."""
        return self._parent

    @property
    def last_step(self) -> int:
        """Global step of the newest checkpoint of this lineage; 0 when there is none."""
        return 0 if self._parent is None else int(self._parent.name.removeprefix("step-"))

    def save(self, policy_model: PolicyModel, state: RunState) -> StoredCheckpoint:
        """Write the current step; raises `nan_loss`, `disk_full` or `checkpoint_failed`."""
        # On every rank at once, then written by rank 0 alone.
        snapshot = policy_model.take_snapshot()
        parts = {OPTIMIZER: snapshot.moments, ADAPTER: snapshot.adapter}
        _require_finite(snapshot.weights, state.global_step)
        self._require_space(
            [tensor for part in (snapshot.weights, *parts.values()) for tensor in part.values()]
        )
        stored = state.to_stored(self._spec).model_dump_json()
        loaded = policy_model.loaded
        decoding = resolve_decoding(
            self._spec,
            block_size=loaded.block_size,
            mask_token_id=loaded.mask_token_id,
            stop_token_ids=loaded.stop_token_ids,
            evaluation=True,
        )

        def write_payload(directory: Path) -> None:
            with _safetensors_errors():
                save_model(loaded, directory, snapshot.weights, decoding)
                for name, tensors in parts.items():
                    if tensors:
                        save_file(dict(tensors), directory / name)
            if self._spec.lora is not None:
                described = describe_adapter(loaded.model, self._spec.lora, self._spec.model)
                (directory / ADAPTER_CONFIG).write_text(described, encoding="utf-8")
            (directory / STATE).write_text(stored, encoding="utf-8")

        header = self._header(state, weight_digest(export_state(loaded.model, snapshot.weights)))
        path, manifest = write_checkpoint(self._request.checkpoints, header, write_payload)
        self._parent = path
        return StoredCheckpoint(path, manifest)

    def expired(self, state: RunState) -> list[Path]:
        """Return the checkpoints that retention does not keep."""
        return expired_checkpoints(
            self._request.checkpoints, self._spec.checkpoint, best_name(state)
        )

    def _header(self, state: RunState, digest: str) -> CheckpointHeader:
        return CheckpointHeader(
            job_id=self._request.job_id,
            attempt=self._request.attempt,
            stage=self._spec.method.stages[state.stage_index],
            global_step=state.global_step,
            weight_version=state.global_step,
            weight_digest=digest,
            parent=None if self._parent is None else self._parent.name,
            model=asdict(self._card),
            diffusion=self._spec.diffusion.model_dump(mode="json"),
            created_at=time.time(),
        )

    def _require_space(self, tensors: list[Tensor]) -> None:
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors) + _SPARE_BYTES
        self._request.checkpoints.mkdir(parents=True, exist_ok=True)
        # Asked before the first byte: a full volume would also take the journal's next event.
        free = shutil.disk_usage(self._request.checkpoints).free
        if free < needed:
            raise PlatformError(
                "disk_full",
                f"Cannot write a checkpoint into {self._request.checkpoints}: it takes {needed} bytes and {free} are "
                "free. Earlier checkpoints are untouched.",
                hint="Free space, or lower checkpoint.keep_last.",
            )


def _require_finite(weights: Mapping[str, Tensor], step: int) -> None:
    """Refuse weights that are not finite: retention would delete sound checkpoints in favour of
    broken ones.
    """
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise PlatformError(
            "nan_loss",
            f"Cannot write the checkpoint of step {step}: {len(broken)} tensors, first {broken[0]}, have values that "
            "are not finite. Earlier checkpoints are untouched.",
            hint="Rewind to one of them with a lower optim.lr.",
        )


def best_name(state: RunState) -> str | None:
    """Name of the best checkpoint, if what decides was measured."""
    return None if state.best is None else checkpoint_name(state.best.step)


def find_resume_point(request: LearnerRequest) -> tuple[ResumePoint | None, list[str]]:
    """The newest checkpoint of the job that verifies, else the one it was forked from, or None; and
    why newer ones were passed over.

    Raises `checkpoint_invalid` for another job's.
    """
    skipped: list[str] = []
    # Its own checkpoints first: a fork that has trained already continues from where it is.
    own = newest_valid(request.checkpoints, skipped)
    found = own or newest_valid(request.job_dir / ORIGIN / "checkpoints", skipped)
    if found is None:
        return None, skipped
    path, manifest = found
    if own is not None and manifest.job_id != request.job_id:
        raise PlatformError(
            "checkpoint_invalid",
            f"Cannot resume {request.job_id} from {path}: it belongs to {manifest.job_id}. Every job has a directory "
            "of its own.",
        )
    state = parse_state((path / STATE).read_text(encoding="utf-8"), request.spec)
    return ResumePoint(path, manifest, state), skipped


@contextmanager
def _safetensors_errors() -> Iterator[None]:
    """Turn errors of safetensors back into the OSError they wrap: its number tells a full disk
    from a broken one.
    """
    try:
        yield
    except SafetensorError as error:
        match = _OS_ERROR.search(str(error))
        raise OSError(int(match[1]) if match else errno.EIO, str(error)) from error
