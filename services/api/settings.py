"""Settings of the control plane's processes: the API, the scheduler, the recorder, the migration."""

from typing import Annotated

from pydantic import AfterValidator, Field
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from services.common.settings import CommonSettings, HostPort, HostPorts, reject_example_password


def _postgres_url(value: str) -> str:
    try:
        driver = make_url(value).drivername
    except ArgumentError:
        driver = "no URL"
    if driver != "postgresql+psycopg":
        raise ValueError("must be postgresql+psycopg://user:password@host/database")
    return value


class ApiSettings(CommonSettings):
    """Every environment variable of the control plane, DIRL_ before each name."""

    database_url: Annotated[
        str, AfterValidator(_postgres_url), AfterValidator(reject_example_password)
    ]
    """PostgreSQL, as postgresql+psycopg://user:password@host/database."""
    api_listen: HostPort = "127.0.0.1:8000"
    """Address of the REST API and the dashboard. Beyond loopback every request needs an API key."""
    rollout_addresses: HostPorts = ("127.0.0.1:50051",)
    """Rollout replicas of the installation. The scheduler leases those that answer."""
    trainer_addresses: HostPorts = ("127.0.0.1:50053",)
    """Trainers of the installation. Each runs one job at a time."""
    reward_address: HostPort = "127.0.0.1:50052"
    """Reward service of the installation."""
    rate_limit_per_s: float = Field(50.0, gt=0)
    """Requests per second that one API key may send to one API process. Local users without a key
    are not limited.
    """
    max_upload_bytes: int = Field(512 * 2**20, gt=0)
    """Largest uploaded file."""
    project_quota_bytes: int | None = Field(None, gt=0)
    """Bytes of files, checkpoints and exported models that a project may keep. Unset, there is no
    bound.
    """
    stall_budgets_s: dict[str, float] = Field(default_factory=dict)
    """Seconds without an event after which a phase of a learner counts as stalled: a JSON object by
    phase, for phases whose default (services/api/domain/stall.py) does not fit.
    """
    trainer_lost_after_s: float = Field(30.0, gt=0)
    """Seconds without an answer of a trainer after which its attempt ends as `worker_lost`."""
