"""`python -m services.trainer.service.export_checkpoint CHECKPOINT OUTPUT`: write a checkpoint as a model directory.

A checkpoint holds a complete Hugging Face directory in the SDAR layout, so an export is a verified
copy of its model files with a note of where they come from; a LoRA job's export also has its adapter
in the layout of peft. The output appears by one rename;
running the same export again does nothing.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import load_file, save_file

from services.common.checkpoint.format import (
    ADAPTER,
    ADAPTER_CONFIG,
    MANIFEST,
    OPTIMIZER,
    STATE,
    CheckpointManifest,
    verify,
)
from services.common.checkpoint.store import fsync_path
from services.common.errors import PlatformError
from services.common.storage_errors import STORAGE_EXITS, to_storage_error

PROVENANCE: Final = "dirl_export.json"
PEFT_DIRECTORY: Final = "adapter"
_NOT_THE_MODEL: Final = frozenset({OPTIMIZER, ADAPTER, ADAPTER_CONFIG, STATE, MANIFEST})


def export_checkpoint(checkpoint: Path, output: Path) -> None:
    """Verify the checkpoint and copy its model to `output`.

    Raises PlatformError: `checkpoint_invalid`, `conflict` when `output` exists and is something
    else, `disk_full` or `storage_unavailable` when it cannot be written.
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
        action = f"write the model directory {output}"
        raise to_storage_error(action, error) from error


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
    if ADAPTER_CONFIG in manifest.files:
        _write_adapter(checkpoint, partial / PEFT_DIRECTORY)
    (partial / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    fsync_path(partial / PROVENANCE)
    fsync_path(partial)


def _write_adapter(checkpoint: Path, directory: Path) -> None:
    """Write the adapter of a LoRA job in the layout of peft, for PeftModel.from_pretrained."""
    directory.mkdir()
    # peft wraps the model as base_model.model and names the adapter when it loads one.
    tensors = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor
        for name, tensor in load_file(checkpoint / ADAPTER).items()
    }
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(checkpoint / ADAPTER_CONFIG, directory / "adapter_config.json")
    for file in directory.iterdir():
        fsync_path(file)
    fsync_path(directory)


def main(arguments: list[str]) -> None:
    """Export; a failure ends the process with its message on stderr, and a status of STORAGE_EXITS
    where that says why.
    """
    if len(arguments) != 2:
        sys.exit("usage: python -m services.trainer.service.export_checkpoint CHECKPOINT OUTPUT")
    try:
        export_checkpoint(Path(arguments[0]), Path(arguments[1]))
    except PlatformError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(STORAGE_EXITS.get(error.code, 1))


if __name__ == "__main__":
    main(sys.argv[1:])
