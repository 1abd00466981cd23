"""LMDeploy's Python part, where `make lmdeploy` has put it; nothing of it is on the path otherwise."""

import importlib
import os
import sys
import warnings
from pathlib import Path

DIRECTORY = Path(os.environ.get("DIRL_LMDEPLOY_DIR") or Path(sys.prefix) / "lmdeploy")
ABSENT = f"LMDeploy is not in {DIRECTORY}: run `make lmdeploy` (needs the package index)"


def is_there() -> bool:
    return (DIRECTORY / "lmdeploy" / "version.py").is_file()


def put_on_path() -> None:
    """Make `import lmdeploy` work in this process; its import warns about what it would like to
    have.
    """
    if str(DIRECTORY) not in sys.path:
        sys.path.append(str(DIRECTORY))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("lmdeploy.pytorch.strategies.dllm.step_inputs")
            importlib.import_module("lmdeploy.pytorch.models.sdar")
