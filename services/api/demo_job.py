"""The demo's job: generated arithmetic problems, a tiny model with random weights, and the spec
that trains it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from services.api.cli.programs import run_module
from services.common.data.arithmetic import make_arithmetic
from services.common.spec_file import read_spec_file

TRAIN_PROBLEMS: Final = 4096
TEST_PROBLEMS: Final = 500
_SPEC: Final = Path(__file__).parent / "cli" / "arithmetic.toml"


def make_model_here(path: Path, seed: int) -> None:
    """The demo's model, made on this machine; raises CommandError when it cannot be, as without
    torch.
    """
    run_module("services.common.model", "make", "--out", str(path), "--seed", str(seed))


def make_demo_job(
    directory: Path, seed: int, make_model: Callable[[Path, int], None] = make_model_here
) -> dict[str, Any]:
    """Spec of the demo's job; its data and model are written into the directory, whose model is
    kept if it has one.

    Raises what `make_model` raises.
    """
    files = make_arithmetic(directory, seed=seed, num_train=TRAIN_PROBLEMS, num_test=TEST_PROBLEMS)
    model = directory / "model"
    if not model.exists():
        make_model(model, seed)
    return {
        **read_spec_file(_SPEC),
        "model": str(model),
        "training_file": str(files.train),
        "validation_file": str(files.test),
        "seed": seed,
    }
