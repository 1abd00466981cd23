"""Between two steps: changes of the spec that the user asked for."""

from services.common.events import EventType
from services.common.steering import read_revisions, with_changes
from services.trainer.learner.attempt_context import AttemptContext


def apply_revisions(context: AttemptContext) -> None:
    """Apply every revision that this attempt has not applied yet; reports REVISION of each."""
    for revision in read_revisions(context.request.job_dir, context.revision):
        # Every rank gets the new spec before the step that is the first to use it.
        context.spec = with_changes(context.spec, revision.changes)
        context.policy_model.revise(context.spec)
        context.revision = revision.number
        context.report.journal.emit(
            EventType.REVISION,
            {
                "revision": revision.number,
                "step": context.state.global_step,
                "changes": revision.changes,
            },
        )
