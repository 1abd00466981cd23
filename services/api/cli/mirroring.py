"""Copy the metrics of a running job to an experiment tracker, through the REST API."""

import time
from typing import Final

from services.api.cli.trackers import Tracker
from services.api.client import ApiClient
from services.api.domain.job_state import TERMINAL

_POLL_S: Final = 2.0


def mirror_job(api: ApiClient, job_id: str, tracker: Tracker) -> int:
    """Log all steps until the job finishes; returns their number.

    Steps that are repeated after a restart are logged again.
    """
    after, logged = None, 0
    while True:
        is_finished = (
            api.job(job_id).state in TERMINAL
        )  # read before the metrics, so that none is missed
        for event in api.metrics_after(job_id, after):
            data, after = event.data, event.id
            values = {name: value for name, value in data["values"].items() if value is not None}
            tracker.log(data["step"], values, event.time)
            logged += 1
        if is_finished:
            return logged
        time.sleep(_POLL_S)
