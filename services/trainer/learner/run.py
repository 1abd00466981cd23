"""One attempt from start to end: rank 0 prepares, runs the stages and saves the result; the other
ranks follow it.
"""

import faulthandler
import os
import re
import signal
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Literal

import redis
import structlog
import torch
from pydantic import ValidationError

from services.common.attempt_result import AttemptResult, AttemptState
from services.common.errors import PlatformError
from services.common.events import EventType
from services.common.storage_errors import STORAGE_EXITS, to_storage_error
from services.common.streams import EventQueue, connect
from services.common.telemetry.logs import configure_logging
from services.trainer.learner.certificate import certify_end
from services.trainer.learner.evaluation import EvaluationRunner
from services.trainer.learner.journal import Journal, Reporter
from services.trainer.learner.lifecycle import StopRequestedError, StopSignal, die_with_parent
from services.trainer.learner.prompt_tasks import TrainingPrompts
from services.trainer.learner.reference_checkpoint import prepare_reference
from services.trainer.learner.request import (
    RANK_VARIABLE,
    LearnerRequest,
    read_result,
    save_result,
)
from services.trainer.learner.rl_stage import RlStage
from services.trainer.learner.setup import Prepared, prepare
from services.trainer.learner.sft_stage import SftStage
from services.trainer.learner.stage import TrainingStage, run_training_stage
from services.trainer.training.policy_model import PolicyModel
from services.trainer.training.ranks import ALONE, Ranks, join

_RANK_LOST = re.compile(
    r"connection (was )?closed|connection reset|broken pipe|gloo|nccl", re.IGNORECASE
)
_CPU_ALLOCATION_FAILED = re.compile(r"can't allocate memory|not enough memory", re.IGNORECASE)

log = structlog.get_logger()


def run_learner(request_file: Path) -> None:
    """Run this process's rank of the attempt that the request describes.

    Exits with 1 when a rank other than 0 ends before rank 0 dismissed it, and with a status of
    STORAGE_EXITS when the result cannot be written.
    """
    try:
        _run_rank(request_file)
    except OSError as error:
        failure = to_storage_error(f"use the directory of {request_file}", error)
        log.exception("result not written", code=failure.code)
        sys.exit(STORAGE_EXITS[failure.code])


def _run_rank(request_file: Path) -> None:
    request = LearnerRequest.model_validate_json(request_file.read_bytes())
    configure_logging("learner", request.log_level, request.log_format)
    structlog.contextvars.bind_contextvars(job_id=request.job_id, attempt=request.attempt)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # Before anything that takes long: a supervisor that dies while the model loads must not leave
    # a learner behind.
    die_with_parent(request.supervisor_pid)
    stop = StopSignal()
    stop.listen()
    rank = int(os.environ.get(RANK_VARIABLE, "0"))
    if rank == 0:
        _lead(request, stop)
    elif not _follow(request, rank):
        sys.exit(1)


def _lead(request: LearnerRequest, stop: StopSignal) -> None:
    """Rank 0: the attempt itself. Dismisses the other ranks last, when their end can no longer
    change the result.
    """
    try:
        ranks = _join(request, 0)
    except PlatformError as error:
        _save(request, AttemptResult.from_error(error))
        return
    result = run_attempt(request, stop, ranks)
    _save(request, result)
    if result.state == "succeeded":
        ranks.dismiss()
        ranks.leave()


def _follow(request: LearnerRequest, rank: int) -> bool:
    """Any other rank; returns whether rank 0 dismissed it. It ignores SIGTERM: rank 0 stops after
    a step.
    """
    try:
        ranks = _join(request, rank)
        if request.torch_threads is not None:
            torch.set_num_threads(request.torch_threads)
        checkpoint: Path | None = ranks.broadcast()
        PolicyModel.load(request.model_path, request.spec, checkpoint, ranks).follow_leader()
        ranks.leave()
    except Exception as error:
        failure = as_platform_error(error)
        log.exception("rank failed", rank=rank, code=failure.code)
        _save(request, AttemptResult.from_error(failure))
        return False
    return True


def _join(request: LearnerRequest, rank: int) -> Ranks:
    host = 0 if request.ranks_per_host is None else rank // request.ranks_per_host
    return join(request.rendezvous, rank, request.ranks, request.ranks_of_host(host))


def _save(request: LearnerRequest, result: AttemptResult) -> None:
    """Save the first result only: the rank that fails first knows why, the others merely lose it."""
    if read_result(request.job_dir, request.attempt) is None:
        save_result(request.job_dir, request.attempt, result)


def run_attempt(request: LearnerRequest, stop: StopSignal, ranks: Ranks = ALONE) -> AttemptResult:
    """Run the job's stages; never raises for a failure of the job: the result states it."""
    with closing(connect(request.redis_url)) as client:
        try:
            journal = Journal(request.job_dir, request.job_id, request.attempt, EventQueue(client))
            with closing(journal):
                result = _run_with_journal(request, client, journal, stop, ranks)
        except (OSError, PlatformError) as error:
            result = _to_failure(error)
    log.info("attempt ended", job_id=request.job_id, attempt=request.attempt, state=result.state)
    return result


def _run_with_journal(
    request: LearnerRequest, client: redis.Redis, journal: Journal, stop: StopSignal, ranks: Ranks
) -> AttemptResult:
    try:
        _run_stages(request, client, journal, stop, ranks)
        return AttemptResult(AttemptState.SUCCEEDED)
    except StopRequestedError:
        return AttemptResult(AttemptState.STOPPED)
    except Exception as error:  # noqa: BLE001 - whatever it is, the result states it
        result = _to_failure(error)
        # Not on a volume that takes no more events: the result matters more than its event.
        with suppress(OSError):
            journal.emit(
                EventType.LOG,
                {"level": "error", "code": result.error_code, "message": result.error_message},
            )
        return result


def _to_failure(error: Exception) -> AttemptResult:
    failure = as_platform_error(error)
    log.exception("attempt failed", code=failure.code, exc_info=error)
    return AttemptResult.from_error(failure)


def as_platform_error(error: Exception) -> PlatformError:
    """Return the code and message under which a failure of the attempt is reported."""
    if isinstance(error, PlatformError):
        return error
    if isinstance(error, ValidationError):
        return PlatformError("spec_invalid", f"The job spec cannot be used: {error}")
    # Only CUDA has an exception of its own; the CPU's allocator raises a RuntimeError with a text.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _CPU_ALLOCATION_FAILED.search(str(error))
    ):
        return PlatformError(
            "oom_train",
            f"Training ran out of memory: {error}",
            hint="Lower trainer.max_tokens_per_microbatch or trainer.seq_len.",
        )
    if isinstance(error, RuntimeError) and _RANK_LOST.search(str(error)):
        return PlatformError(
            "worker_lost",
            f"A rank of the learner was lost: {error}",
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return to_storage_error(f"use {error.filename or 'the data directory'}", error)
    return PlatformError(
        "internal", f"The learner failed: {type(error).__name__}: {error}", hint="Its log has more."
    )


def _run_stages(
    request: LearnerRequest, client: redis.Redis, journal: Journal, stop: StopSignal, ranks: Ranks
) -> None:
    with ExitStack() as resources:
        prepared = prepare(request, client, Reporter(journal), stop, resources, ranks)
        context, evaluation = prepared.context, _make_evaluation(prepared)
        stages = context.spec.method.stages
        for index in range(context.state.stage_index, len(stages)):
            if index != context.state.stage_index:
                context.state.stage_index, context.state.stage_step = index, 0
            context.report.stage = stages[index]
            context.stop.check()
            if stages[index] != "eval":
                _run_stage(prepared, evaluation)
            # An evaluation stage that follows evaluates the same weights.
            has_eval_next = index + 1 < len(stages) and stages[index + 1] == "eval"
            if evaluation is not None and not has_eval_next:
                evaluation.run(stages[index], ends_stage=True)
        certify_end(context)


def _run_stage(prepared: Prepared, evaluation: EvaluationRunner | None) -> None:
    context = prepared.context
    stage = _make_stage(prepared)
    # An optimizer per stage: moments of the supervised loss would push the first policy steps.
    context.policy_model.begin_stage(
        stage.name, _optimizer_file(prepared, stage.name), prepare_reference(context, stage.name)
    )
    if evaluation is not None and stage.name == "rl" and context.state.stage_step == 0:
        evaluation.run(stage.name)  # what reinforcement is compared with
    run_training_stage(context, stage, evaluation)


def _make_evaluation(prepared: Prepared) -> EvaluationRunner | None:
    rollouts, prompts = prepared.context.rollouts, prepared.data.evaluation
    if rollouts is None or prompts is None:
        return None
    return EvaluationRunner(
        prepared.context, rollouts, prompts, prepared.data.held_out, prepared.eval_decoding
    )


def _make_stage(prepared: Prepared) -> TrainingStage:
    """Make the stage that the state is in."""
    context, data, state = prepared.context, prepared.data, prepared.context.state
    if context.spec.method.stages[state.stage_index] == "sft":
        assert data.sft is not None
        return SftStage(
            context, data.sft, state.stages["sft"], context.stage_steps["sft"], data.held_out
        )
    assert data.rl is not None
    assert context.rollouts is not None
    prompts = TrainingPrompts(context, data.rl, state.stages["rl"], prepared.train_decoding)
    return RlStage(context, context.rollouts, prompts)


def _optimizer_file(prepared: Prepared, stage: Literal["sft", "rl"]) -> Path | None:
    """Return the stored state of the optimizer when the attempt resumes within a stage; else None."""
    resume = prepared.resume
    if resume is None or resume.manifest.stage != stage or prepared.context.state.stage_step == 0:
        return None
    return resume.optimizer_file
