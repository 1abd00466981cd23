"""Settings of the control plane's processes: the API, the scheduler, the recorder, the migration."""

from typing import Annotated

from pydantic import AfterValidator, Field
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from services.common.settings import CommonSettings, HostPort, HostPorts, not_the_example


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

    database_url: Annotated[str, AfterValidator(_postgres_url), AfterValidator(not_the_example)]
    api_listen: HostPort = "127.0.0.1:8000"
    rollout_addresses: HostPorts = ("127.0.0.1:50051",)
    """Every rollout replica of the installation."""
    trainer_addresses: HostPorts = ("127.0.0.1:50053",)
    """Every trainer; each runs one job at a time."""
    reward_address: HostPort = "127.0.0.1:50052"
    rate_limit_per_s: float = Field(50.0, gt=0)
    """Requests that one API key may make per second, to one API process; local users without a key
    are not limited.
    """
    max_upload_bytes: int = Field(512 * 2**20, gt=0)
    project_quota_bytes: int | None = Field(None, gt=0)
    """Files, checkpoints and exported models that a project may keep; None sets no bound."""
    stall_budgets_s: dict[str, float] = Field(default_factory=dict)
    """Seconds that a phase of a learner may be silent before the job counts as stalled; a JSON
    object by phase, for phases whose default (services.api.domain.stall) does not fit.
    """
    trainer_lost_after_s: float = Field(30.0, gt=0)
    """A trainer that has not answered for so long has lost its attempt."""
