"""The FastAPI application."""

from pathlib import Path
from typing import Any, Final

from fastapi import Depends, FastAPI
from starlette.middleware.gzip import GZipMiddleware

from services.api.http import (
    routes_access,
    routes_chat,
    routes_demo,
    routes_files,
    routes_fine_tuning,
    routes_graders,
    routes_insight,
    routes_job_actions,
    routes_jobs,
    routes_metrics,
    routes_models,
    routes_queues,
    routes_records,
    routes_storage,
    routes_system,
    routes_trajectories,
    routes_webhooks,
)
from services.api.http.auth import authorize
from services.api.http.errors import install_error_handlers
from services.api.http.middleware import RequestMiddleware, TransferLimitMiddleware
from services.api.http.pages import DASHBOARD, dashboard_router
from services.api.http.platform_metrics import PlatformCollector
from services.api.http.resources import Resources
from services.api.schemas.envelope import ErrorEnvelope
from services.common.job_spec import JobSpec

_ROUTES: Final = (
    routes_files,
    routes_fine_tuning,
    routes_jobs,
    routes_job_actions,
    routes_demo,
    routes_records,
    routes_metrics,
    routes_insight,
    routes_trajectories,
    routes_graders,
    routes_models,
    routes_storage,
    routes_access,
    routes_webhooks,
    routes_chat,
    routes_system,
    routes_queues,
)
_GZIP_BYTES: Final = 4096
"""Smaller responses are not worth compressing. Event streams never are."""
_GZIP_LEVEL: Final = 4
_MAX_BODY_BYTES: Final = 4 * 2**20
_MULTIPART_BYTES: Final = 64 * 2**10
"""What the form adds to a file."""
_DESCRIPTION: Final = (
    "Post-training of block-diffusion language models: supervised fine-tuning, DiPO reinforcement "
    "learning, evaluation."
)


def create_app(resources: Resources, *, dashboard: Path = DASHBOARD) -> FastAPI:
    """The API on these connections, which stay the caller's to close."""
    app = FastAPI(
        title="DiRL Platform",
        version=resources.version,
        description=_DESCRIPTION,
        # The pages of FastAPI load scripts of a third party; /docs is a page of the dashboard instead.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        dependencies=[Depends(authorize)],
        responses={"default": {"model": ErrorEnvelope, "description": "An error."}},
    )
    app.state.resources = resources
    PlatformCollector(resources.database, resources.redis, resources.registry)
    upload_bytes = resources.settings.max_upload_bytes + _MULTIPART_BYTES
    app.add_middleware(
        TransferLimitMiddleware, max_bytes=_MAX_BODY_BYTES, uploads={"/v1/files": upload_bytes}
    )
    app.add_middleware(GZipMiddleware, minimum_size=_GZIP_BYTES, compresslevel=_GZIP_LEVEL)
    app.add_middleware(RequestMiddleware, registry=resources.registry)
    install_error_handlers(app)
    for module in _ROUTES:
        app.include_router(module.router)
    app.include_router(dashboard_router(dashboard))
    _add_spec_schema(app)
    return app


def _add_spec_schema(app: FastAPI) -> None:
    """Put the job spec's schema into the document: the route reads its body itself, to report every
    problem at once.
    """
    plain = app.openapi

    def with_spec() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")
            document = plain()
            document["components"]["schemas"].update({**schema.pop("$defs", {}), "JobSpec": schema})
            body = document["paths"]["/v1/jobs"]["post"]["requestBody"]
            body["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/JobSpec"}
        return plain()

    app.openapi = with_spec  # type: ignore[method-assign]
