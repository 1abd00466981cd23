"""`python -m services.rollout.engines.lmdeploy_check`: reasons why LMDeploy cannot run, as JSON.

Imports LMDeploy only if it is installed.
"""

import importlib
import importlib.metadata
import json
import sys
import warnings
from typing import Final

import torch

from services.common.errors import PlatformError

INSTALL: Final = "pip install --no-deps -r lmdeploy-constraints.txt"


def find_obstacles() -> list[str]:
    """Return all reasons why LMDeploy cannot run in this process; empty if it can."""
    found = (
        []
        if torch.cuda.is_available()
        else ["there is no CUDA device, and LMDeploy has no CPU mode"]
    )
    try:
        importlib.metadata.version("lmdeploy")
    except importlib.metadata.PackageNotFoundError:
        return [*found, f"LMDeploy is not installed ({INSTALL})"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about optional dependencies
            importlib.import_module("services.rollout.engines.lmdeploy_trace").require_known()
            importlib.import_module("lmdeploy.pytorch.engine")
    except ImportError as error:
        return [*found, f"LMDeploy cannot be imported: {error} ({INSTALL})"]
    except PlatformError as error:
        return [*found, error.message]
    return found


def require_lmdeploy() -> None:
    """Raise PlatformError("preflight_failed") with all reasons."""
    found = find_obstacles()
    if found:
        raise PlatformError(
            "preflight_failed",
            f"Cannot use the engine lmdeploy (DIRL_ROLLOUT_ENGINE): {'; '.join(found)}.",
            hint="Run the rollout service on a machine with an NVIDIA GPU (docs/lmdeploy.md says how to install "
            "LMDeploy there), or leave DIRL_ROLLOUT_ENGINE at torch.",
        )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(find_obstacles()) + "\n")
