"""/v1/queues: the streams between learners, replicas and the recorder"""

from fastapi import APIRouter

from services.api.http.paging import to_page
from services.api.http.resources import Res
from services.api.schemas.envelope import Page
from services.api.schemas.system import QueueView
from services.api.use_cases.queues import read_queues

router = APIRouter(tags=["system"])


@router.get("/v1/queues")
def list_queues(resources: Res) -> Page[QueueView]:
    """The streams of every running attempt, and the platform's events."""
    views = read_queues(resources.database, resources.redis)
    return to_page(QueueView, views, len(views))
