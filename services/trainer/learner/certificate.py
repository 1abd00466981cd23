"""The certificate of an attempt: what its weights were trained on, proved from the step logs at its
start and end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from services.common.checkpoint.format import read_manifest
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.weights import weight_digest
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.learner.checkpointing import ResumePoint
from services.trainer.learner.curriculum import count_differences, summarize
from services.trainer.learner.journal import has_event
from services.trainer.learner.ledger import NOTHING_ISSUED, certify
from services.trainer.learner.request import LearnerRequest
from services.trainer.learner.step_log import has_step_log, surviving_records

Moment = Literal["resume", "restart", "end"]
NOTHING_LOST: Final = {"steps_undone": 0, "skipped_checkpoints": ()}


def find_undone_steps(
    request: LearnerRequest, resume: ResumePoint | None, skipped: Sequence[str]
) -> list[int]:
    """Return the global steps of earlier attempts that the attempt repeats.

    Raises `checkpoint_lost` when they are more than the spec allows because checkpoints do not
    verify, or are gone. A rewind leaves the one that it names.
    """
    resumed_from = 0 if resume is None else resume.manifest.global_step
    if _is_directory_lost(request):
        undone = list(range(resumed_from + 1, request.steps_recorded + 1))
    else:
        _, undone = surviving_records(
            request.job_dir, before_attempt=request.attempt, resumed_from=resumed_from
        )
    limit = request.spec.checkpoint.undo_limit
    if len(undone) > limit and (skipped or _are_gone(request, resume)):
        raise PlatformError(
            "checkpoint_lost",
            f"Cannot resume {request.job_id}: {_describe_loss(resume, skipped)} To go on would undo "
            f"{len(undone)} steps, {undone[0]} to {undone[-1]}; checkpoint.max_undone_steps allows {limit}.",
            hint="Restore the checkpoints from a backup, or raise checkpoint.max_undone_steps; then resume.",
        )
    return undone


def _is_directory_lost(request: LearnerRequest) -> bool:
    """Whether steps were recorded of which the job's directory has no log."""
    earlier = range(1, request.attempt)
    return request.steps_recorded > 0 and not any(
        has_step_log(request.job_dir, attempt) for attempt in earlier
    )


def _are_gone(request: LearnerRequest, resume: ResumePoint | None) -> bool:
    """Whether there is no checkpoint although an earlier attempt wrote one, or may have."""
    earlier = range(1, request.attempt)
    wrote = has_event(request.job_dir, earlier, EventType.CHECKPOINT)
    return resume is None and (wrote or _is_directory_lost(request))


def certify_start(
    context: AttemptContext,
    resume: ResumePoint | None,
    undone: Sequence[int],
    skipped: Sequence[str],
) -> None:
    """Emit the certificate of an attempt that resumes, or that begins anew although steps were done;
    raises `checkpoint_invalid` when the loaded weights are not those of the checkpoint.
    """
    if resume is None and not undone:
        return
    loss = {"steps_undone": len(undone), "skipped_checkpoints": list(skipped)}
    path = None if resume is None else resume.path
    before, after = _emit_certificate(
        context, path, "restart" if resume is None else "resume", loss
    )
    if undone:
        reason = f" {_describe_loss(resume, skipped)}" if skipped or resume is None else ""
        context.report.journal.say(
            "warning",
            "restarted_from_zero" if resume is None else "steps_undone",
            f"Steps {undone[0]} to {undone[-1]} came after the last checkpoint that verifies and are repeated.{reason}",
            steps=undone,
        )
    # After the certificate is emitted: it holds both digests, so the user sees what differed.
    if before not in (None, after):
        raise PlatformError(
            "checkpoint_invalid",
            f"Cannot resume from {path}: its manifest states weights with digest {before}, the loaded ones have "
            f"{after}.",
            hint="Resume with the release that wrote the checkpoint.",
        )


def _describe_loss(resume: ResumePoint | None, skipped: Sequence[str]) -> str:
    found = (
        "no checkpoint verifies."
        if resume is None
        else f"the newest that verifies is {resume.path.name}."
    )
    return " ".join([f"Of its checkpoints {found}", *skipped[:1]])


def certify_end(context: AttemptContext) -> None:
    """Emit the certificate of a finished attempt, for its newest checkpoint."""
    checkpoint = context.checkpointer.newest
    if checkpoint is not None:
        _emit_certificate(context, checkpoint, "end")


def _emit_certificate(
    context: AttemptContext,
    checkpoint: Path | None,
    moment: Moment,
    loss: Mapping[str, Any] = NOTHING_LOST,
) -> tuple[str | None, str]:
    """Emit the certificate; returns the digest that the checkpoint states, None without one, and
    the one of the weights in memory.
    """
    request, state = context.request, context.state
    # Records of all attempts, this one's too, up to the step of the weights in memory.
    records, _ = surviving_records(
        request.job_dir, before_attempt=request.attempt + 1, resumed_from=state.global_step
    )
    certificate = NOTHING_ISSUED
    for name, stage in state.stages.items():
        own = [record for record in records if record.stage == name]
        results = [result for record in own for result in record.results]
        miscounted = count_differences(stage.statistics, results)
        certificate += replace(certify(stage.ledger, own), miscounted=miscounted)
    before = None if checkpoint is None else read_manifest(checkpoint).weight_digest
    after = weight_digest(context.policy_model.export_weights())
    fields = {
        "moment": moment,
        "resumed_from": context.resumed_from,
        **loss,
        **certificate.to_json(),
    }
    if "rl" in state.stages:
        fields["sampler"] = context.spec.rl.curriculum.sampler
        fields |= summarize(state.stages["rl"].statistics)
    context.report.journal.emit(
        EventType.CERTIFICATE, {**fields, "digest_before": before, "digest_after": after}
    )
    if not certificate.holds:
        message = f"The prompt ledger does not match the step log: {certificate}."
        context.report.journal.say("error", "certificate_broken", message)
    return before, after
