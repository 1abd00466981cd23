"""The weights that a reinforcement stage began with, kept on disk so that a resumed attempt has
them too.
"""

import shutil
from pathlib import Path
from typing import Final, Literal

from services.common.errors import PlatformError
from services.common.model.loading import save_model
from services.trainer.learner.attempt_context import AttemptContext

DIRECTORY: Final = "reference"
"""In the job's directory."""


def prepare_reference(context: AttemptContext, stage: Literal["sft", "rl"]) -> Path | None:
    """Return the model directory of the stage's reference policy, written when the stage begins;
    None where none is needed.

    Raises PlatformError `checkpoint_invalid` when a resumed stage finds none.
    """
    if stage != "rl" or context.spec.rl.kl_beta == 0:
        return None
    path = context.request.job_dir / DIRECTORY
    if context.state.stage_step == 0:
        # Replaces what an earlier attempt left; the directory gets its name once it is complete.
        partial = path.with_name(f".{DIRECTORY}.partial")
        for leftover in (partial, path):
            shutil.rmtree(leftover, ignore_errors=True)
        save_model(context.policy_model.loaded, partial)
        partial.rename(path)
    elif not path.is_dir():
        raise PlatformError(
            "checkpoint_invalid",
            f"Cannot resume the stage rl: rl.kl_beta is {context.spec.rl.kl_beta}, but the reference weights in {path}"
            " are gone.",
            hint="Restore the directory, or submit a new job that starts from the exported checkpoint.",
        )
    return path
