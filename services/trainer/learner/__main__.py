"""`python -m services.trainer.learner REQUEST.json`: train one attempt. Exit status 0 when a result was written."""

import faulthandler
import os
import signal
import sys
from pathlib import Path

import structlog

from services.common.errors import PlatformError
from services.common.telemetry.logs import configure_logging
from services.trainer.journal import last_seq
from services.trainer.learner.process import StopSignal, die_with_parent
from services.trainer.learner.request import RANK_VARIABLE, LearnerRequest, LearnerResult, read_result
from services.trainer.learner.run import as_platform_error, run_attempt
from services.trainer.learner.trainee import follow_attempt
from services.trainer.ranks import join

log = structlog.get_logger()


def main(request_file: str) -> None:
    """Run the attempt that the request describes."""
    request = LearnerRequest.model_validate_json(Path(request_file).read_bytes())
    configure_logging("learner", request.log_level, request.log_format)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    die_with_parent(request.supervisor_pid)
    stop = StopSignal()
    stop.listen()
    rank = int(os.environ.get(RANK_VARIABLE, "0"))
    result = _lead(request, stop) if rank == 0 else _follow(request, rank)
    # The first to fail says why; the others only notice that it is gone.
    if result is not None and read_result(request.job_dir, request.attempt) is None:
        result.save(request.job_dir, request.attempt)
    if rank > 0 and result is not None:
        sys.exit(1)


def _lead(request: LearnerRequest, stop: StopSignal) -> LearnerResult:
    """Rank 0: the attempt itself."""
    try:
        ranks = join(request.rendezvous, 0, request.ranks)
    except PlatformError as error:
        return LearnerResult.failure(error, last_event_seq=0)
    return run_attempt(request, stop, ranks)


def _follow(request: LearnerRequest, rank: int) -> LearnerResult | None:
    """Any other rank: None when it was dismissed. It heeds no stop of its own, rank 0 ends at a step's end."""
    try:
        follow_attempt(request, join(request.rendezvous, rank, request.ranks))
    except Exception as error:
        failure = as_platform_error(error)
        log.exception("rank failed", rank=rank, code=failure.code)
        return LearnerResult.failure(failure, last_seq(request.job_dir, request.attempt))
    return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m services.trainer.learner REQUEST.json")
    main(sys.argv[1])
