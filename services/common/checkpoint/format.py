"""The checkpoint directory: names, manifest, verification. Reads only; imports no torch.

A directory is a checkpoint if its manifest verifies. The newest one has the greatest step;
modification times are ignored, since copies change them. docs/checkpoint-format.md describes the
format for other programs.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import structlog
from pydantic import Field, ValidationError

from services.common.diffusion.config import Frozen
from services.common.errors import PlatformError

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
STATE: Final = "state.json"
OPTIMIZER: Final = "optimizer.safetensors"
ADAPTER: Final = "adapter.safetensors"
ADAPTER_CONFIG: Final = "adapter.json"
"""Not adapter_config.json: transformers would take the directory for an adapter without its model."""
_NAME = re.compile(r"step-(\d{6,})")
_READ_BYTES: Final = 1 << 20

log = structlog.get_logger()


class FileEntry(Frozen):
    """One file of a checkpoint."""

    sha256: str
    bytes: int = Field(ge=0)


class CheckpointHeader(Frozen):
    """Metadata of a checkpoint."""

    job_id: str
    attempt: int = Field(ge=1)
    stage: str
    """Stage the step belongs to: sft | rl."""
    global_step: int = Field(ge=0)
    """Optimizer steps over all stages."""
    weight_version: int = Field(ge=0)
    weight_digest: str
    """services.common.weights.weight_digest of the tensors."""
    parent: str | None
    """Name of the previous checkpoint of the lineage; None for the first."""
    model: dict[str, Any]
    """model_type, block_size, mask_token_id, vocab_size and max_positions of the model."""
    diffusion: dict[str, Any]
    """`diffusion` of the job spec."""
    created_at: float
    """Unix seconds; for display only, never used to select a checkpoint."""


class CheckpointManifest(CheckpointHeader):
    """manifest.json. It is written last, so all other files are complete if it exists."""

    format_version: int
    files: dict[str, FileEntry]
    """By path relative to the directory, POSIX separators; every file but the manifest."""
    manifest_sha256: str = ""
    """Digest of the canonical JSON of all other fields."""

    @property
    def total_bytes(self) -> int:
        """Size of all files listed."""
        return sum(entry.bytes for entry in self.files.values())

    def seal(self) -> "CheckpointManifest":
        """Return the manifest with its own digest."""
        return self.model_copy(update={"manifest_sha256": self._own_digest()})

    def is_sealed(self) -> bool:
        """Whether the digest matches the other fields."""
        return self.manifest_sha256 == self._own_digest()

    def _own_digest(self) -> str:
        fields = self.model_dump(mode="json", exclude={"manifest_sha256"})
        return hashlib.sha256(
            json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()


ORIGIN: Final = "origin"
"""Directory of a forked job with the `checkpoints/` and `journal/` of its parent."""


def checkpoint_name(global_step: int) -> str:
    """Return the directory name of a step, e.g. `step-000042`."""
    return f"step-{global_step:06d}"


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def list_checkpoints(directory: Path) -> list[Path]:
    """Return directories named like a checkpoint, by ascending step and without verification."""
    if not directory.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in directory.iterdir()
        if (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def read_manifest(path: Path) -> CheckpointManifest:
    """Read the manifest and check its digest, but not those of the files; raises `checkpoint_invalid`."""
    file = path / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _invalid(path, f"{MANIFEST} is missing, so the checkpoint is incomplete") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _invalid(path, f"{MANIFEST} cannot be read: {error}") from None
    manifest = _parse_manifest(path, data)
    if not manifest.is_sealed():
        raise _invalid(path, f"{MANIFEST} does not match its digest {manifest.manifest_sha256}")
    return manifest


def verify(path: Path) -> CheckpointManifest:
    """Compare every file of a checkpoint with the manifest.

    Raises PlatformError `checkpoint_invalid` naming the first file that differs, with both digests.
    """
    manifest = read_manifest(path)
    if checkpoint_name(manifest.global_step) != path.name:
        raise _invalid(path, f"its manifest belongs to {checkpoint_name(manifest.global_step)}")
    for name, entry in sorted(manifest.files.items()):
        _verify_file(path, name, entry)
    return manifest


def newest_valid(
    directory: Path, skipped: list[str] | None = None
) -> tuple[Path, CheckpointManifest] | None:
    """Return the valid checkpoint with the greatest step, or None; logs invalid ones, and adds
    their problems to `skipped`.
    """
    for path in reversed(list_checkpoints(directory)):
        try:
            return path, verify(path)
        except PlatformError as error:
            log.warning("checkpoint skipped", path=str(path), reason=error.message)
            if skipped is not None:
                skipped.append(error.message)
    return None


def _parse_manifest(path: Path, data: Any) -> CheckpointManifest:
    version = data.get("format_version") if isinstance(data, Mapping) else None
    if version != FORMAT_VERSION:
        raise _invalid(
            path, f"its format version is {version!r}; this release reads {FORMAT_VERSION}"
        )
    try:
        return CheckpointManifest.model_validate(data)
    except ValidationError as error:
        raise _invalid(path, f"{MANIFEST} is malformed: {error}") from None


def _verify_file(path: Path, name: str, entry: FileEntry) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise _invalid(path, f"{MANIFEST} names {name!r}, which is not inside the directory")
    file = path / relative
    try:
        size, digest = file.stat().st_size, file_sha256(file)
    except OSError as error:
        raise _invalid(path, f"{name} cannot be read: {error.strerror}") from None
    if (size, digest) != (entry.bytes, entry.sha256):
        raise _invalid(
            path,
            f"{name} has sha256 {digest} and {size} bytes, the manifest states {entry.sha256} and {entry.bytes} bytes",
        )


def _invalid(path: Path, reason: str) -> PlatformError:
    return PlatformError(
        "checkpoint_invalid",
        f"Cannot use the checkpoint {path}: {reason}. Files of a checkpoint must not be changed.",
        hint="Use an older checkpoint, or restore this one from a backup.",
    )
