"""Modules of the services as programs: what needs tensors never enters the process of the command
line.
"""

import os
import sys
from pathlib import Path
from typing import Final

import services

_IMPORT_ROOT: Final = str(Path(services.__file__).parent.parent)


def module_command(name: str, *arguments: str) -> tuple[str, ...]:
    """`python -m name …` with this interpreter."""
    # -P: the directory in which the user happens to be must not shadow modules.
    return (sys.executable, "-P", "-m", name, *arguments)


def module_environment() -> dict[str, str]:
    """Our environment, completed so that the module is found from a checkout that is not installed,
    too.
    """
    inherited = os.environ.get("PYTHONPATH")
    path = _IMPORT_ROOT if not inherited else os.pathsep.join((_IMPORT_ROOT, inherited))
    return {**os.environ, "PYTHONPATH": path}
