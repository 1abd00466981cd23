"""The demo's inputs: generated arithmetic problems, a tiny model with random weights, and the spec
that trains it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from services.common.data.arithmetic import make_arithmetic
from services.common.job_spec import read_spec_file

TRAIN_PROBLEMS: Final = 4096
TEST_PROBLEMS: Final = 500
_SPEC: Final = Path(__file__).parent / "arithmetic.toml"


def make_demo_spec(
    directory: Path, seed: int, make_model: Callable[[Path, int], None]
) -> dict[str, Any]:
    """Write data and model into the directory, whose model is kept if it has one, and return the
    job's spec.

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
