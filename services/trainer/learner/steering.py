"""Between two steps: changes of the spec that the user asked for."""

from services.common.events import EventType
from services.common.steering import read_revisions, with_changes
from services.trainer.learner.attempt_context import AttemptContext


def apply_revisions(session: AttemptContext) -> None:
    """Apply every revision that this attempt has not applied yet; reports REVISION of each."""
    for revision in read_revisions(session.request.job_dir, session.revision):
        session.spec = with_changes(session.spec, revision.changes)
        session.policy_model.revise(session.spec)
        session.revision = revision.number
        session.report.journal.emit(
            EventType.REVISION,
            {
                "revision": revision.number,
                "step": session.state.global_step,
                "changes": revision.changes,
            },
        )
