"""Which checkpoint is the best one: by the metric of `checkpoint.keep_best`, else by the validation
loss of a supervised stage that measures it.
"""

import json
from typing import Final

from services.common.checkpoint.format import checkpoint_name
from services.common.checkpoint.store import write_file_durably
from services.common.job_metrics import JobMetric
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.learner.state import Best

BEST_FILE: Final = "best.json"


def update_best(context: AttemptContext) -> bool:
    """Whether the current step has the best value so far; the caller stores its weights, and
    `mark_best` names their checkpoint.
    """
    state, spec = context.state, context.spec
    validates = spec.sft.validation_interval_steps is not None
    metric = spec.checkpoint.keep_best or (JobMetric.EVAL_LOSS if validates else None)
    value = None if metric is None else context.report.read_value(state.global_step, metric)
    if metric is None or value is None:
        return False
    # The earlier of two equal ones: less training for the same result. A fork may choose another
    # metric than its parent, whose values say nothing about it.
    best = state.best
    if best is not None and best.metric == metric and not _is_better(metric, value, best.value):
        return False
    state.best = Best(step=state.global_step, metric=metric, value=value)
    return True


def mark_best(context: AttemptContext) -> None:
    """Name the best checkpoint in `checkpoints/best.json`, for people and programs that choose one."""
    best = context.state.best
    assert best is not None
    name = checkpoint_name(best.step)
    text = json.dumps({"checkpoint": name, **best.model_dump()}, indent=2)
    write_file_durably(context.request.checkpoints / BEST_FILE, f"{text}\n".encode())
    context.report.journal.say(
        "info",
        "best_checkpoint",
        f"{name} has the best {best.metric} so far, {best.value:.4f}; it is kept until a better one exists.",
        step=best.step,
        metric=best.metric,
        value=best.value,
    )


def restore_mark(context: AttemptContext) -> None:
    """Name the best checkpoint again unless its file does: the learner that wrote it may have been
    killed before it wrote the file.
    """
    best, path = context.state.best, context.request.checkpoints / BEST_FILE
    if best is None or not (path.parent / checkpoint_name(best.step)).is_dir():
        return
    if not path.exists() or json.loads(path.read_bytes())["step"] != best.step:
        mark_best(context)


def _is_better(metric: str, value: float, than: float) -> bool:
    return value < than if metric.endswith("loss") else value > than
