"""`python -m services.trainer.training.try_step DIR`: one step of SFT, a check of a converted model."""

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np

from services.common.errors import PlatformError
from services.common.job_metrics import JobMetric
from services.common.job_spec import JobSpec
from services.trainer.training.policy_model import PolicyModel
from services.trainer.training.ranks import ALONE
from services.trainer.training.sft import SftExample

_PROMPT: Final = "1 + 1 ="
_ANSWER: Final = " 2 + 2 + 2"
_LR: Final = 1e-6


def main(arguments: list[str] | None = None) -> int:
    """Return exit status 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m services.trainer.training.try_step", description=__doc__
    )
    parser.add_argument("model", metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        loss = train_one_step(Path(options.model))
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{loss:.6f}\n")
    return 0


def train_one_step(path: Path) -> float:
    """Return the loss of one step of SFT on a short text; the directory is not changed.

    Raises PlatformError if loss or gradient are not finite.
    """
    spec = JobSpec.model_validate(
        {"model": str(path), "method": "sft", "training_file": "none", "optim": {"lr": _LR}}
    )
    policy_model = PolicyModel.load(path, spec, None, ALONE)
    tokenizer = policy_model.loaded.tokenizer
    prompt, answer = (
        np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        for text in (_PROMPT, _ANSWER)
    )
    whole = len(answer) - (len(prompt) + len(answer)) % policy_model.loaded.block_size
    example = SftExample(
        prompt_ids=prompt, token_ids=np.resize(answer, max(whole, policy_model.loaded.block_size))
    )
    policy_model.begin_stage("sft", None, None)
    # It raises nan_loss before the weights move.
    return policy_model.train_sft([example], 1, _LR)[JobMetric.TRAIN_LOSS]


if __name__ == "__main__":
    sys.exit(main())
