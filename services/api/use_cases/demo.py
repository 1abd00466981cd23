"""The demo's job on an installation that runs already."""

from services.api.adapters.demo_inputs import make_demo_spec
from services.api.db.job_tables import Job
from services.api.domain.access import Caller
from services.api.use_cases.control_plane import ControlPlane
from services.api.use_cases.create_job import submit_job


def create_demo_job(plane: ControlPlane, caller: Caller, seed: int) -> Job:
    """Have a trainer make the model, make the data, and submit the job."""
    spec = make_demo_spec(plane.data_dir / "demo" / str(seed), seed, plane.fleet.make_tiny_model)
    job, _ = submit_job(plane, caller, spec)
    return job
