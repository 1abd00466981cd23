"""The certificate of an attempt: what its weights were trained on, proved from the step logs at its
start and end.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from services.common.checkpoint.format import read_manifest
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.weights import weight_digest
from services.trainer.learner.attempt_context import AttemptContext
from services.trainer.learner.curriculum import count_differences, summarize
from services.trainer.learner.ledger import NOTHING_ISSUED, certify
from services.trainer.learner.step_log import surviving_records

Moment = Literal["resume", "end"]


def certify_resume(context: AttemptContext, checkpoint: Path) -> None:
    """Emit the certificate of a resumed attempt; raises `checkpoint_invalid` when the loaded
    weights are not those of the checkpoint.
    """
    request = context.request
    _, undone = surviving_records(
        request.job_dir, before_attempt=request.attempt, resumed_from=context.resumed_from
    )
    before, after = _emit_certificate(context, checkpoint, "resume")
    if undone:
        steps = f"steps {undone[0]} to {undone[-1]}"
        context.report.journal.say(
            "warning",
            "steps_undone",
            f"{steps} came after the last checkpoint and are repeated.",
            steps=undone,
        )
    # After the certificate is emitted: it holds both digests, so the user sees what differed.
    if after != before:
        raise PlatformError(
            "checkpoint_invalid",
            f"Cannot resume from {checkpoint}: its manifest states weights with digest {before}, the loaded ones have "
            f"{after}.",
            hint="Resume with the release that wrote the checkpoint.",
        )


def certify_end(context: AttemptContext) -> None:
    """Emit the certificate of a finished attempt, for its newest checkpoint."""
    checkpoint = context.checkpointer.newest
    if checkpoint is not None:
        _emit_certificate(context, checkpoint, "end")


def _emit_certificate(context: AttemptContext, checkpoint: Path, moment: Moment) -> tuple[str, str]:
    """Emit the certificate; returns the digest that the checkpoint states and the one of the
    weights in memory.
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
    before, after = (
        read_manifest(checkpoint).weight_digest,
        weight_digest(context.policy_model.export_weights()),
    )
    fields = {"moment": moment, "resumed_from": context.resumed_from, **certificate.to_json()}
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
