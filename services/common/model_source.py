"""Resolve models: directories, or names on the Hugging Face hub. Imports no torch."""

from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from services.common.errors import PlatformError

MODEL_FILES: Final = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py"]
"""Files to download; no pickled weights. Python files are kept for exports and never run."""


def resolve_model(name: str, revision: str | None = None) -> Path:
    """Return the directory of a model, downloaded unless `name` is a directory.

    Raises PlatformError("model_invalid").

    A revision selects one of a hub model; giving one for a directory is an error.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise PlatformError(
                "model_invalid",
                f"Model {name} is a directory and has no revision {revision!r}.",
                hint="Remove the revision; it applies to hub models only.",
                param="model_revision",
            )
        return directory.resolve()
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    """Download from the hub, or use the local cache."""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise PlatformError(
            "model_invalid",
            f"Model {name!r}{f' at revision {revision!r}' if revision else ''} is not a directory, "
            f"and downloading it from the Hugging Face hub failed: {error}",
            hint="Use an existing directory, or check the name, the revision and the network.",
            param="model",
        ) from error
