"""/healthz, /readyz, /v1/system, /metrics: state of the installation"""

from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.api.http.auth import Who
from services.api.http.resources import Res
from services.api.schemas.system import Alive, Readiness, SystemView
from services.api.use_cases.system import read_readiness, read_system

router = APIRouter(tags=["system"])

_UNAVAILABLE: Final = 503


@router.get("/healthz")
def healthz() -> Alive:
    """Whether the process lives."""
    return Alive()


@router.get("/readyz", responses={_UNAVAILABLE: {"model": Readiness}})
def readyz(resources: Res, response: Response) -> Readiness:
    """Whether requests can be served; 503 when the database or Redis does not answer."""
    readiness = read_readiness(resources)
    if not readiness.ready:
        response.status_code = _UNAVAILABLE
    return readiness


@router.get("/v1/system")
def get_system(resources: Res, caller: Who) -> SystemView:
    """Every service: whether it is up, its version, its memory, the weights it has loaded. Errors, and
    jobs of other projects, are for admins.
    """
    return read_system(resources, resources.version, caller)


@router.get("/metrics", response_class=PlainTextResponse)
def prometheus_metrics(resources: Res) -> Response:
    """Prometheus text format."""
    return Response(generate_latest(resources.registry), media_type=CONTENT_TYPE_LATEST)
