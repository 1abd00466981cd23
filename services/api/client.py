"""A client of the REST API, for programs and the command line; every failure is a ClientError
with the server's message.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from services.api.schemas.access import KeyView, NewKeyView
from services.api.schemas.envelope import Page
from services.api.schemas.estimates import JobEstimate
from services.api.schemas.files import DeletedFile, FileView
from services.api.schemas.graders import RescoreReport
from services.api.schemas.jobs import (
    CheckpointRequest,
    DeletedJob,
    DiagnosisView,
    JobView,
    LogLineView,
)
from services.api.schemas.models import ExportView, ModelView, UsageView
from services.api.schemas.records import (
    AttemptView,
    CertificateView,
    CheckpointView,
    DeletedCheckpoint,
    EvaluationView,
    EventView,
)
from services.api.schemas.system import Readiness
from services.api.schemas.trajectories import TrajectoryExport, TrajectoryQuery, TrajectoryView
from services.api.schemas.webhooks import DeletedWebhook, NewWebhookView, WebhookView

_TIMEOUT_S: Final = 60.0
_SUBMISSION_TIMEOUT_S: Final = 3600.0
"""A submission reads every row of its files, and may download them."""
_PAGE: Final = 1000

Json = dict[str, Any]
"""An object that is sent."""
Response = TypeVar("Response", bound=BaseModel)


class ClientError(Exception):
    """A request that failed; the message says what was tried, what is wrong and how to fix it."""

    def __init__(self, message: str, *, code: str = "command_failed") -> None:
        super().__init__(message)
        self.code = code
        """Code of the API's error envelope; `unreachable` when the API did not respond."""


class ApiClient:
    """One connection to the API; use as a context manager."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """`key` is by default the one in DIRL_API_KEY; a platform on this machine needs none."""
        key = key or os.environ.get("DIRL_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/")
        # The platform is local or named explicitly: proxies of the environment are not used.
        self._http = httpx.Client(
            base_url=self.url, timeout=_TIMEOUT_S, headers=headers, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the API can serve requests."""
        return self._send(Readiness, "GET", "/readyz").ready

    def upload(self, path: Path) -> FileView:
        """Send a data file."""
        try:
            opened = path.open("rb")
        except OSError as error:
            raise ClientError(f"Cannot read {path}: {error.strerror}.") from None
        with opened as file:
            return self._send(
                FileView,
                "POST",
                "/v1/files",
                files={"file": (path.name, file)},
                data={"purpose": "fine-tune"},
            )

    def create_job(self, spec: Json, *, preflight: bool = False) -> JobView:
        """Submit a job spec; with `preflight` a job whose estimate finds problems is refused."""
        return self._send(
            JobView,
            "POST",
            "/v1/jobs",
            params={"preflight": preflight},
            json=spec,
            timeout=httpx.Timeout(_TIMEOUT_S, read=_SUBMISSION_TIMEOUT_S),
        )

    def job(self, job_id: str) -> JobView:
        """One job."""
        return self._send(JobView, "GET", f"/v1/jobs/{job_id}")

    def jobs(self, limit: int, search: str = "") -> list[JobView]:
        """The newest jobs first; with `search` those that have all its words."""
        return self._page(JobView, "/v1/jobs", limit=limit, q=search).data

    def cancel(self, job_id: str) -> JobView:
        """Cancel a job."""
        return self._send(JobView, "POST", f"/v1/jobs/{job_id}/cancel")

    def pause(self, job_id: str) -> JobView:
        """Pause a job, with a checkpoint."""
        return self._send(JobView, "POST", f"/v1/jobs/{job_id}/pause")

    def resume(self, job_id: str) -> JobView:
        """Queue a paused job again."""
        return self._send(JobView, "POST", f"/v1/jobs/{job_id}/resume")

    def rescore(self, job_id: str, query: Json) -> RescoreReport:
        """Grade a job's stored trajectories again."""
        return self._send(RescoreReport, "POST", f"/v1/jobs/{job_id}/rescore", json=query)

    def rerun(self, job_id: str) -> JobView:
        """Queue a failed or cancelled job again."""
        return self._send(JobView, "POST", f"/v1/jobs/{job_id}/rerun")

    def rewind(self, job_id: str, checkpoint: str) -> JobView:
        """Queue a job so that it resumes from an earlier checkpoint."""
        return self._send(
            JobView, "POST", f"/v1/jobs/{job_id}/rewind", json={"checkpoint": checkpoint}
        )

    def fork(
        self, job_id: str, checkpoint: str | None, changes: Json, *, suffix: str | None = None
    ) -> JobView:
        """Create a job that starts from a checkpoint, the newest by default, with another spec."""
        return self._send(
            JobView,
            "POST",
            f"/v1/jobs/{job_id}/fork",
            json={"checkpoint": checkpoint, "changes": changes, "suffix": suffix},
        )

    def change(self, job_id: str, hyperparameters: Json) -> JobView:
        """Change hyperparameters, by dotted key, between two steps."""
        return self._send(
            JobView,
            "PATCH",
            f"/v1/jobs/{job_id}",
            json={"hyperparameters": hyperparameters},
        )

    def request_checkpoint(self, job_id: str) -> CheckpointRequest:
        """Have a running job write a checkpoint after its current step."""
        return self._send(CheckpointRequest, "POST", f"/v1/jobs/{job_id}/checkpoints")

    def trajectories(self, job_id: str, query: TrajectoryQuery) -> list[TrajectoryView]:
        """A page of the responses that a job kept."""
        wanted = query.model_dump(mode="json", exclude_none=True)
        return self._page(TrajectoryView, f"/v1/jobs/{job_id}/trajectories", **wanted).data

    def export_trajectories(self, job_id: str, selection: TrajectoryExport, path: Path) -> int:
        """Write the responses that a job kept to a new data file; its size in bytes."""
        wanted = selection.model_dump(mode="json", exclude_none=True)
        url = f"/v1/jobs/{job_id}/trajectories/export"
        partial = path.with_name(f"{path.name}.partial")
        try:
            with partial.open("wb") as file, self._stream("GET", url, params=wanted) as response:
                for part in response.iter_bytes():
                    file.write(part)
            return partial.rename(path).stat().st_size  # complete or absent
        except OSError as error:
            raise ClientError(f"Cannot write {path}: {error.strerror}.") from None
        finally:
            partial.unlink(missing_ok=True)

    def delete_checkpoint(self, job_id: str, checkpoint_id: str) -> DeletedCheckpoint:
        """Delete a checkpoint of a job that does not run."""
        return self._send(
            DeletedCheckpoint, "DELETE", f"/v1/jobs/{job_id}/checkpoints/{checkpoint_id}"
        )

    def usage(self) -> UsageView:
        """What the project stores, and its quota."""
        return self._send(UsageView, "GET", "/v1/usage")

    def create_webhook(self, url: str, events: list[str]) -> NewWebhookView:
        """Create a webhook; the response has the secret that messages are signed with."""
        return self._send(
            NewWebhookView, "POST", "/v1/webhooks", json={"url": url, "events": events}
        )

    def webhooks(self) -> list[WebhookView]:
        """All webhooks."""
        return list(self._pages(WebhookView, "/v1/webhooks"))

    def delete_webhook(self, webhook_id: str) -> DeletedWebhook:
        """Delete a webhook."""
        return self._send(DeletedWebhook, "DELETE", f"/v1/webhooks/{webhook_id}")

    def files(self) -> list[FileView]:
        """All uploaded files."""
        return list(self._pages(FileView, "/v1/files"))

    def delete_file(self, file_id: str) -> DeletedFile:
        """Delete an uploaded file."""
        return self._send(DeletedFile, "DELETE", f"/v1/files/{file_id}")

    def delete(self, job_id: str) -> DeletedJob:
        """Delete a job with its data."""
        return self._send(DeletedJob, "DELETE", f"/v1/jobs/{job_id}")

    def diagnosis(self, job_id: str) -> DiagnosisView:
        """What limits a job or keeps it from running."""
        return self._send(DiagnosisView, "GET", f"/v1/jobs/{job_id}/diagnosis")

    def estimate(self, spec: Json) -> JobEstimate:
        """What can be said of a job before it runs."""
        return self._send(JobEstimate, "POST", "/v1/jobs", params={"dry_run": True}, json=spec)

    def log_lines(self, job_id: str, service: str) -> Iterator[LogLineView]:
        """What a service wrote about the newest attempt, oldest first."""
        return self._pages(LogLineView, f"/v1/jobs/{job_id}/logs", service=service)

    def create_key(
        self, name: str, project: str, scopes: list[str], expires_at: int | None
    ) -> NewKeyView:
        """Create an API key; the response has its secret."""
        body = {"name": name, "project": project, "scopes": scopes, "expires_at": expires_at}
        return self._send(NewKeyView, "POST", "/v1/api_keys", json=body)

    def keys(self) -> list[KeyView]:
        """API keys, without secrets."""
        return list(self._pages(KeyView, "/v1/api_keys"))

    def revoke_key(self, key_id: str) -> KeyView:
        """Revoke an API key."""
        return self._send(KeyView, "DELETE", f"/v1/api_keys/{key_id}")

    def evals(self, job_id: str) -> list[EvaluationView]:
        """Evaluations of a job, oldest first."""
        return list(self._pages(EvaluationView, f"/v1/jobs/{job_id}/evals"))

    def events(self, job_id: str) -> list[EventView]:
        """Every event of a job, oldest first."""
        return list(self._pages(EventView, f"/v1/jobs/{job_id}/events"))

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        """Checkpoints of a job."""
        return list(self._pages(CheckpointView, f"/v1/jobs/{job_id}/checkpoints"))

    def attempts(self, job_id: str) -> list[AttemptView]:
        """Executions of a job, the first one first."""
        return list(self._pages(AttemptView, f"/v1/jobs/{job_id}/attempts"))

    def certificates(self, job_id: str) -> list[CertificateView]:
        """What every attempt that resumed an earlier one proved about the prompt ledger."""
        return self._page(CertificateView, f"/v1/jobs/{job_id}/certificate").data

    def metrics_after(self, job_id: str, after: str | None) -> Iterator[EventView]:
        """Events with the metrics of a step, oldest first, behind the event `after`."""
        return self._pages(EventView, f"/v1/jobs/{job_id}/events", after, type="metrics")

    def models(self) -> list[ModelView]:
        """Registered models."""
        return list(self._pages(ModelView, "/v1/models"))

    def export(self, checkpoint_id: str) -> ExportView:
        """Export a checkpoint as a model directory."""
        return self._send(ExportView, "POST", f"/v1/checkpoints/{checkpoint_id}/export")

    def export_status(self, export_id: str) -> ExportView:
        """State of an export."""
        return self._send(ExportView, "GET", f"/v1/exports/{export_id}")

    def _pages(
        self, kind: type[Response], path: str, after: str | None = None, **selection: str
    ) -> Iterator[Response]:
        while True:
            page = self._page(
                kind, path, limit=_PAGE, **selection, **({} if after is None else {"after": after})
            )
            yield from page.data
            if not page.has_more:
                return
            after = page.last_id

    def _page(self, kind: type[Response], path: str, **params: str | int) -> Page[Response]:
        return self._send(Page[kind], "GET", path, params=params)  # type: ignore[valid-type]

    @contextmanager
    def _stream(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        """A response that is still to be read; raises ClientError."""
        try:
            with self._http.stream(method, path, **arguments) as response:
                if not response.is_success:
                    response.read()
                    raise _to_client_error(response)
                yield response
        except httpx.TransportError as error:
            raise ClientError(
                f"The API at {self.url} does not answer ({error}). Is the platform running? Start it with `dirl up`.",
                code="unreachable",
            ) from None

    def _send(self, kind: type[Response], method: str, path: str, **arguments: Any) -> Response:
        """The response, read as `kind`; raises ClientError."""
        with self._stream(method, path, **arguments) as response:
            response.read()
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise ClientError(
                f"{response.request.url} returned a {kind.__name__} that this client cannot read; "
                f"are client and server of the same release? {error}"
            ) from None


def _to_client_error(response: httpx.Response) -> ClientError:
    try:
        error = response.json()["error"]
        return ClientError(str(error["message"]), code=str(error["code"]))
    except (ValueError, KeyError, TypeError):
        return ClientError(
            f"{response.request.url} answered {response.status_code}: {response.text[:200]}"
        )
