"""`python -m services.trainer.learner REQUEST.json`: train one attempt. Exit status 0 when a result was written."""

import faulthandler
import signal
import sys
from pathlib import Path

from services.common.telemetry.logs import configure_logging
from services.trainer.learner.process import StopSignal, die_with_parent
from services.trainer.learner.request import LearnerRequest
from services.trainer.learner.run import run_attempt


def main(request_file: str) -> None:
    """Run the attempt that the request describes."""
    request = LearnerRequest.model_validate_json(Path(request_file).read_bytes())
    configure_logging("learner", request.log_level, request.log_format)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    die_with_parent(request.supervisor_pid)
    stop = StopSignal()
    stop.listen()
    run_attempt(request, stop).save(request.job_dir, request.attempt)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m services.trainer.learner REQUEST.json")
    main(sys.argv[1])
