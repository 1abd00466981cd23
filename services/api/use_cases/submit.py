"""Submitting a job. Idempotent with a key: the same key with the same body gives the same job, with
another body it is refused.
"""

import hashlib
import json
from typing import Any

from services.api.db.job_tables import IdempotencyKey, Job
from services.api.domain.access import Caller
from services.api.schemas.estimates import JobEstimate
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.create_job import KeyedRequest, create_job
from services.api.use_cases.estimate import estimate_job
from services.api.use_cases.job_checks import check_spec
from services.common.errors import PlatformError


def submit_job(
    plane: ControlPlane,
    caller: Caller,
    body: Any,
    *,
    key: str | None = None,
    preflight: bool = False,
) -> tuple[Job, bool]:
    """Return the job, and whether it is new; raises PlatformError and ProblemsError."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    request_hash = hashlib.sha256(canonical.encode()).hexdigest()
    keyed = None if key is None else KeyedRequest(f"{caller.project}:{key}", request_hash)
    while True:
        if keyed is not None and (known := _find_job_of_key(plane, keyed)):
            return known, False
        job = create_job(plane, caller, body, keyed=keyed, preflight=preflight)
        if job is not None:  # else another request used the key meanwhile, and has the job
            plane.wakeups.dispatch()
            return job, True


def estimate_submission(plane: ControlPlane, caller: Caller, body: Any) -> JobEstimate:
    """Check a spec as a submission would be, and estimate its job; nothing is stored."""
    return estimate_job(plane, caller, check_spec(plane, caller, body))


def _find_job_of_key(plane: ControlPlane, keyed: KeyedRequest) -> Job | None:
    """The job that the key was used for; raises "conflict" when it was another request."""
    with plane.database.begin() as session:
        used = session.get(IdempotencyKey, keyed.key)
        if used is None:
            return None
        if used.request_hash != keyed.request_hash:
            raise PlatformError(
                "conflict",
                f"Idempotency-Key {keyed.key.partition(':')[2]!r} was used for job {used.job_id} with another body.",
                hint="Use a new key for a new job.",
            )
        return session.get_one(Job, used.job_id)
