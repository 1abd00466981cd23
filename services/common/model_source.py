"""Where a model comes from: a directory, or a name on the Hugging Face hub. Imports no torch."""

from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from services.common.errors import PlatformError

MODEL_FILES: Final = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""What is fetched: never code, never pickled weights."""


def resolve_model(name: str, revision: str | None = None) -> Path:
    """Directory of a model, downloaded when `name` is no directory; raises
    PlatformError("model_invalid").

    A revision pins a hub model; a directory has none, so giving one for it is an error.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise PlatformError(
                "model_invalid",
                f"Model {name} is a directory, but revision {revision!r} was asked for.",
                hint="A revision selects among those of a hub model; leave it out.",
                param="model_revision",
            )
        return directory.resolve()
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    """Fetch from the hub, or find it in the local cache."""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise PlatformError(
            "model_invalid",
            f"Model {name!r}{f' at revision {revision!r}' if revision else ''} is no directory here, "
            f"and fetching it from the Hugging Face hub failed: {error}",
            hint="Give an existing directory, or check the name, the revision and the network.",
            param="model",
        ) from error
