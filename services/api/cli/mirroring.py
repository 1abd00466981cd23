"""Copies a job's metrics to an experiment tracker while it runs, from the public REST API alone."""

import time
from typing import Final

from services.api.cli.trackers import Tracker
from services.api.client import ApiClient
from services.api.domain.job_state import TERMINAL

_POLL_S: Final = 2.0


def mirror_job(api: ApiClient, job_id: str, tracker: Tracker) -> int:
    """Log every step from the job's first to its end; returns how many. A step that was undone
    comes twice.
    """
    after, logged = None, 0
    while True:
        over = api.job(job_id).state in TERMINAL  # asked first: what is read after it is all
        for event in api.metrics_after(job_id, after):
            data, after = event.data, event.id
            values = {name: value for name, value in data["values"].items() if value is not None}
            tracker.log(data["step"], values, event.time)
            logged += 1
        if over:
            return logged
        time.sleep(_POLL_S)
