"""`python -m services.trainer.service.export_checkpoint CHECKPOINT OUTPUT`: write a checkpoint as a model directory.

A checkpoint holds a complete Hugging Face directory in the SDAR layout, so an export is a verified
copy of its model files with a note of where they come from. The output appears by one rename;
running the same export again does nothing.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from services.common.checkpoint.format import (
    ADAPTER,
    MANIFEST,
    OPTIMIZER,
    STATE,
    CheckpointManifest,
    verify,
)
from services.common.checkpoint.store import fsync_path
from services.common.errors import PlatformError

PROVENANCE: Final = "dirl_export.json"
_NOT_THE_MODEL: Final = frozenset({OPTIMIZER, ADAPTER, STATE, MANIFEST})


def export_checkpoint(checkpoint: Path, output: Path) -> None:
    """Verify the checkpoint and copy its model to `output`.

    Raises PlatformError: `checkpoint_invalid`, `conflict` when `output` exists and is something
    else, `disk_full` or `checkpoint_failed` when it cannot be written.
    """
    manifest = verify(checkpoint)
    provenance = _provenance(manifest)
    if output.exists():
        _require_same(output, provenance)
        return
    partial = output.with_name(f".partial-{output.name}")
    try:
        _write(checkpoint, manifest, partial, provenance)
        partial.rename(output)
        fsync_path(output.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PlatformError(
            "checkpoint_failed", f"Cannot write the model directory {output}: {error}."
        ) from error


def _provenance(manifest: CheckpointManifest) -> dict[str, Any]:
    fields = {
        "job_id",
        "attempt",
        "stage",
        "global_step",
        "weight_version",
        "weight_digest",
        "model",
        "diffusion",
    }
    return manifest.model_dump(mode="json", include=fields)


def _require_same(output: Path, provenance: dict[str, Any]) -> None:
    note = output / PROVENANCE
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) == provenance:
        return
    raise PlatformError(
        "conflict",
        f"Cannot export to {output}: it exists and is not this export.",
        hint="Choose another directory.",
    )


def _write(
    checkpoint: Path, manifest: CheckpointManifest, partial: Path, provenance: dict[str, Any]
) -> None:
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for name in sorted(manifest.files.keys() - _NOT_THE_MODEL):
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint / name, target)
        fsync_path(target)
    (partial / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    fsync_path(partial / PROVENANCE)
    fsync_path(partial)


def main(arguments: list[str]) -> None:
    """Export; a failure ends the process with its message on stderr."""
    if len(arguments) != 2:
        sys.exit("usage: python -m services.trainer.service.export_checkpoint CHECKPOINT OUTPUT")
    try:
        export_checkpoint(Path(arguments[0]), Path(arguments[1]))
    except PlatformError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main(sys.argv[1:])
