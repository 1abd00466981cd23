"""`python -m services.rollout.engines.lmdeploy_check`: why LMDeploy cannot run here, as a JSON
list.

Imports no LMDeploy before it is known to be there.
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


def obstacles() -> list[str]:
    """Every reason, in the words of a user; empty when LMDeploy can run in this process."""
    found = (
        []
        if torch.cuda.is_available()
        else ["there is no CUDA device, and LMDeploy has no CPU mode"]
    )
    try:
        importlib.metadata.version("lmdeploy")
    except importlib.metadata.PackageNotFoundError:
        return [*found, f"LMDeploy is not installed ({INSTALL})"]
    return [*found, *_import_problems()]


def require_lmdeploy() -> None:
    """Raises PlatformError("preflight_failed") with every reason."""
    found = obstacles()
    if found:
        raise PlatformError(
            "preflight_failed",
            f"The engine lmdeploy was chosen (DIRL_ROLLOUT_ENGINE), but {'; and '.join(found)}.",
            hint="Run the rollout service on a machine with an NVIDIA GPU (docs/lmdeploy.md says how to install "
            "LMDeploy there), or leave DIRL_ROLLOUT_ENGINE at torch.",
        )


def _import_problems() -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it would like to have beside
            importlib.import_module("services.rollout.engines.lmdeploy_trace").require_known()
            importlib.import_module("lmdeploy.pytorch.engine")
    except ImportError as error:
        return [f"LMDeploy cannot be imported: {error} ({INSTALL})"]
    except PlatformError as error:
        return [error.message]
    return []


if __name__ == "__main__":
    sys.stdout.write(json.dumps(obstacles()) + "\n")
