"""`python -m services.trainer.learner REQUEST.json`: train one attempt. Exit status 0 when a result
was written.
"""

import faulthandler
import os
import signal
import sys
from pathlib import Path

import structlog
import torch

from services.common.attempt_result import AttemptResult
from services.common.errors import PlatformError
from services.common.telemetry.logs import configure_logging
from services.trainer.learner.lifecycle import StopSignal, die_with_parent
from services.trainer.learner.request import (
    RANK_VARIABLE,
    LearnerRequest,
    read_result,
    save_result,
)
from services.trainer.learner.run import as_platform_error, run_attempt
from services.trainer.training.policy_model import PolicyModel
from services.trainer.training.ranks import Ranks, join

log = structlog.get_logger()


def main(request_file: str) -> None:
    """Run the attempt that the request describes."""
    request = LearnerRequest.model_validate_json(Path(request_file).read_bytes())
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


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m services.trainer.learner REQUEST.json")
    main(sys.argv[1])
