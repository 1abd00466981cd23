"""A client of the REST API, for programs and the command line; every failure is a ClientError in
the server's words.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Generic, Self, TypedDict, TypeVar, cast

import httpx

from services.api import answers

_TIMEOUT_S: Final = 60.0
_PAGE: Final = 1000

Json = dict[str, Any]
"""An object that is sent."""
Answer = TypeVar("Answer")


class _Page(TypedDict, Generic[Answer]):
    data: list[Answer]
    last_id: str | None
    has_more: bool


class _Readiness(TypedDict):
    ready: bool


class ClientError(Exception):
    """What was asked for was refused or not answered; the message says what was tried, what is
    wrong, the way out.
    """

    def __init__(self, message: str, *, code: str = "command_failed") -> None:
        super().__init__(message)
        self.code = code
        """Code of the API's error envelope when it came from there, `unreachable` when nothing did."""


class ApiClient:
    """One connection to the API; use as a context manager."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """`key` is by default the one in DIRL_API_KEY; a platform on this machine needs none."""
        key = key or os.environ.get("DIRL_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/")
        # The platform is local or named explicitly: proxies of the environment are not asked.
        self._http = httpx.Client(
            base_url=self.url, timeout=_TIMEOUT_S, headers=headers, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the API can serve requests."""
        return self._send(_Readiness, "GET", "/readyz")["ready"]

    def upload(self, path: Path) -> answers.FileView:
        """Send a data file."""
        with _opened(path) as file:
            return self._send(
                answers.FileView,
                "POST",
                "/v1/files",
                files={"file": (path.name, file)},
                data={"purpose": "fine-tune"},
            )

    def create_job(self, spec: Json, *, preflight: bool = False) -> answers.JobView:
        """Submit a job spec; with `preflight` it is refused when its forecast speaks against it."""
        return self._send(
            answers.JobView, "POST", "/v1/jobs", params={"preflight": preflight}, json=spec
        )

    def job(self, job_id: str) -> answers.JobView:
        """One job."""
        return self._send(answers.JobView, "GET", f"/v1/jobs/{job_id}")

    def jobs(self, limit: int, search: str = "") -> list[answers.JobView]:
        """The newest jobs first; with `search` those that have all its words."""
        return self._page(answers.JobView, "/v1/jobs", limit=limit, q=search)["data"]

    def cancel(self, job_id: str) -> answers.JobView:
        """Ask a job to end."""
        return self._send(answers.JobView, "POST", f"/v1/jobs/{job_id}/cancel")

    def pause(self, job_id: str) -> answers.JobView:
        """Ask a job to end for now, with a checkpoint."""
        return self._send(answers.JobView, "POST", f"/v1/jobs/{job_id}/pause")

    def resume(self, job_id: str) -> answers.JobView:
        """Queue a paused job again."""
        return self._send(answers.JobView, "POST", f"/v1/jobs/{job_id}/resume")

    def rescore(self, job_id: str, query: Json) -> answers.RescoreReport:
        """Judge a job's stored trajectories again."""
        return self._send(answers.RescoreReport, "POST", f"/v1/jobs/{job_id}/rescore", json=query)

    def rerun(self, job_id: str) -> answers.JobView:
        """Queue a failed or cancelled job again."""
        return self._send(answers.JobView, "POST", f"/v1/jobs/{job_id}/rerun")

    def rewind(self, job_id: str, checkpoint: str) -> answers.JobView:
        """Queue a job to go on from an earlier checkpoint."""
        return self._send(
            answers.JobView, "POST", f"/v1/jobs/{job_id}/rewind", json={"checkpoint": checkpoint}
        )

    def fork(self, job_id: str, checkpoint: str | None, changes: Json) -> answers.JobView:
        """A new job that goes on from a checkpoint, the newest by default, with another spec."""
        return self._send(
            answers.JobView,
            "POST",
            f"/v1/jobs/{job_id}/fork",
            json={"checkpoint": checkpoint, "changes": changes},
        )

    def change(self, job_id: str, hyperparameters: Json) -> answers.JobView:
        """Change hyperparameters, by dotted key, between two steps."""
        return self._send(
            answers.JobView,
            "PATCH",
            f"/v1/jobs/{job_id}",
            json={"hyperparameters": hyperparameters},
        )

    def delete_checkpoint(self, job_id: str, checkpoint_id: str) -> answers.DeletedCheckpoint:
        """Delete a checkpoint of a job that does not run."""
        return self._send(
            answers.DeletedCheckpoint, "DELETE", f"/v1/jobs/{job_id}/checkpoints/{checkpoint_id}"
        )

    def usage(self) -> answers.UsageView:
        """What the project keeps, and what it may keep."""
        return self._send(answers.UsageView, "GET", "/v1/usage")

    def create_webhook(self, url: str, events: list[str]) -> answers.NewWebhookView:
        """Have an address told about jobs; the answer has the secret that messages are signed with."""
        return self._send(
            answers.NewWebhookView, "POST", "/v1/webhooks", json={"url": url, "events": events}
        )

    def delete(self, job_id: str) -> answers.DeletedJob:
        """Delete a job with its data."""
        return self._send(answers.DeletedJob, "DELETE", f"/v1/jobs/{job_id}")

    def diagnosis(self, job_id: str) -> answers.DiagnosisView:
        """What holds a job up."""
        return self._send(answers.DiagnosisView, "GET", f"/v1/jobs/{job_id}/diagnosis")

    def forecast(self, spec: Json) -> answers.JobForecast:
        """What can be said of a job before it runs."""
        return self._send(
            answers.JobForecast, "POST", "/v1/jobs", params={"dry_run": True}, json=spec
        )

    def log_lines(self, job_id: str, service: str) -> Iterator[answers.LogLineView]:
        """What a service wrote about the newest attempt, oldest first."""
        return self._pages(answers.LogLineView, f"/v1/jobs/{job_id}/logs", service=service)

    def create_key(
        self, name: str, project: str, scopes: list[str], expires_at: int | None
    ) -> answers.NewKeyView:
        """A new API key, with its secret."""
        body = {"name": name, "project": project, "scopes": scopes, "expires_at": expires_at}
        return self._send(answers.NewKeyView, "POST", "/v1/api_keys", json=body)

    def keys(self) -> list[answers.KeyView]:
        """API keys, without secrets."""
        return list(self._pages(answers.KeyView, "/v1/api_keys"))

    def revoke_key(self, key_id: str) -> answers.KeyView:
        """Revoke an API key."""
        return self._send(answers.KeyView, "DELETE", f"/v1/api_keys/{key_id}")

    def evals(self, job_id: str) -> list[answers.EvaluationView]:
        """Evaluations of a job, oldest first."""
        return list(self._pages(answers.EvaluationView, f"/v1/jobs/{job_id}/evals"))

    def events(self, job_id: str) -> list[answers.EventView]:
        """Every event of a job, oldest first."""
        return list(self._pages(answers.EventView, f"/v1/jobs/{job_id}/events"))

    def checkpoints(self, job_id: str) -> list[answers.CheckpointView]:
        """Checkpoints of a job."""
        return list(self._pages(answers.CheckpointView, f"/v1/jobs/{job_id}/checkpoints"))

    def attempts(self, job_id: str) -> list[answers.AttemptView]:
        """Executions of a job, the first one first."""
        return list(self._pages(answers.AttemptView, f"/v1/jobs/{job_id}/attempts"))

    def certificates(self, job_id: str) -> list[answers.CertificateView]:
        """What every attempt that took up an earlier one's work proved about the prompt ledger."""
        return self._page(answers.CertificateView, f"/v1/jobs/{job_id}/certificate")["data"]

    def metrics_after(self, job_id: str, after: str | None) -> Iterator[answers.EventView]:
        """Events with the metrics of a step, oldest first, behind the event `after`."""
        return self._pages(answers.EventView, f"/v1/jobs/{job_id}/events", after, type="metrics")

    def models(self) -> list[answers.ModelView]:
        """Registered models."""
        return list(self._pages(answers.ModelView, "/v1/models"))

    def export(self, checkpoint_id: str) -> answers.ExportView:
        """Ask for a checkpoint as a model directory."""
        return self._send(answers.ExportView, "POST", f"/v1/checkpoints/{checkpoint_id}/export")

    def export_status(self, export_id: str) -> answers.ExportView:
        """How an export goes."""
        return self._send(answers.ExportView, "GET", f"/v1/exports/{export_id}")

    def _pages(
        self, kind: type[Answer], path: str, after: str | None = None, **selection: str
    ) -> Iterator[Answer]:
        while True:
            page = self._page(
                kind, path, limit=_PAGE, **selection, **({} if after is None else {"after": after})
            )
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["last_id"]

    def _page(self, kind: type[Answer], path: str, **params: str | int) -> "_Page[Answer]":
        return self._send(_Page[kind], "GET", path, params=params)  # type: ignore[valid-type]

    def _send(self, kind: type[Answer], method: str, path: str, **arguments: Any) -> Answer:
        """The answer, which is of that kind by the server's own description."""
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise ClientError(
                f"The API at {self.url} does not answer ({error}). Is the platform running? Start it with `dirl up`.",
                code="unreachable",
            ) from None
        if answer.is_success:
            return cast(Answer, answer.json())
        raise _refusal(answer)


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise ClientError(f"Cannot read {path}: {error.strerror}.") from None


def _refusal(answer: httpx.Response) -> ClientError:
    try:
        error = answer.json()["error"]
        return ClientError(str(error["message"]), code=str(error["code"]))
    except (ValueError, KeyError, TypeError):
        return ClientError(
            f"{answer.request.url} answered {answer.status_code}: {answer.text[:200]}"
        )
