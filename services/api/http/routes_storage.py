"""/v1/usage: what a project stores"""

from fastapi import APIRouter

from services.api.http.auth import Who
from services.api.http.resources import Res
from services.api.schemas.models import UsageView
from services.api.use_cases.models import read_usage

router = APIRouter(tags=["storage"])


@router.get("/v1/usage")
def get_usage(resources: Res, caller: Who) -> UsageView:
    """What the project stores, and its quota."""
    return read_usage(resources, caller)
