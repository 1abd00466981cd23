"""A client of the REST API, for programs and the command line; every failure is a ClientError in the server's words."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import httpx

_TIMEOUT_S: Final = 60.0
_PAGE: Final = 1000

Json = dict[str, Any]
"""An object as the API answers it; /openapi.json says what it holds."""


class ClientError(Exception):
    """What was asked for was refused or not answered; the message says what was tried, what is wrong, the way out."""

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
        self._http = httpx.Client(base_url=self.url, timeout=_TIMEOUT_S, headers=headers, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the API can serve requests."""
        return bool(self._send("GET", "/readyz")["ready"])

    def upload(self, path: Path) -> Json:
        """Send a data file."""
        with _opened(path) as file:
            return self._send("POST", "/v1/files", files={"file": (path.name, file)}, data={"purpose": "fine-tune"})

    def create_job(self, spec: Json, *, preflight: bool = False) -> Json:
        """Submit a job spec; with `preflight` it is refused when its forecast speaks against it."""
        return self._send("POST", "/v1/jobs", params={"preflight": preflight}, json=spec)

    def job(self, job_id: str) -> Json:
        """One job."""
        return self._send("GET", f"/v1/jobs/{job_id}")

    def jobs(self, limit: int, search: str = "") -> list[Json]:
        """The newest jobs first; with `search` those that have all its words."""
        return list(self._send("GET", "/v1/jobs", params={"limit": limit, "q": search})["data"])

    def cancel(self, job_id: str) -> Json:
        """Ask a job to end."""
        return self._send("POST", f"/v1/jobs/{job_id}/cancel")

    def pause(self, job_id: str) -> Json:
        """Ask a job to end for now, with a checkpoint."""
        return self._send("POST", f"/v1/jobs/{job_id}/pause")

    def resume(self, job_id: str) -> Json:
        """Queue a paused job again."""
        return self._send("POST", f"/v1/jobs/{job_id}/resume")

    def rescore(self, job_id: str, query: Json) -> Json:
        """Judge a job's stored trajectories again."""
        return self._send("POST", f"/v1/jobs/{job_id}/rescore", json=query)

    def rerun(self, job_id: str) -> Json:
        """Queue a failed or cancelled job again."""
        return self._send("POST", f"/v1/jobs/{job_id}/rerun")

    def rewind(self, job_id: str, checkpoint: str) -> Json:
        """Queue a job to go on from an earlier checkpoint."""
        return self._send("POST", f"/v1/jobs/{job_id}/rewind", json={"checkpoint": checkpoint})

    def fork(self, job_id: str, checkpoint: str | None, changes: Json) -> Json:
        """A new job that goes on from a checkpoint, the newest by default, with another spec."""
        return self._send("POST", f"/v1/jobs/{job_id}/fork", json={"checkpoint": checkpoint, "changes": changes})

    def change(self, job_id: str, hyperparameters: Json) -> Json:
        """Change hyperparameters, by dotted key, between two steps."""
        return self._send("PATCH", f"/v1/jobs/{job_id}", json={"hyperparameters": hyperparameters})

    def delete_checkpoint(self, job_id: str, checkpoint_id: str) -> Json:
        """Delete a checkpoint of a job that does not run."""
        return self._send("DELETE", f"/v1/jobs/{job_id}/checkpoints/{checkpoint_id}")

    def usage(self) -> Json:
        """What the project keeps, and what it may keep."""
        return self._send("GET", "/v1/usage")

    def create_webhook(self, url: str, events: list[str]) -> Json:
        """Have an address told about jobs; the answer has the secret that messages are signed with."""
        return self._send("POST", "/v1/webhooks", json={"url": url, "events": events})

    def delete(self, job_id: str) -> Json:
        """Delete a job with its data."""
        return self._send("DELETE", f"/v1/jobs/{job_id}")

    def diagnosis(self, job_id: str) -> Json:
        """What holds a job up."""
        return self._send("GET", f"/v1/jobs/{job_id}/diagnosis")

    def forecast(self, spec: Json) -> Json:
        """What can be said of a job before it runs."""
        return self._send("POST", "/v1/jobs", params={"dry_run": True}, json=spec)

    def log_lines(self, job_id: str, service: str) -> Iterator[Json]:
        """What a service wrote about the newest attempt, oldest first."""
        return self._pages(f"/v1/jobs/{job_id}/logs", service=service)

    def create_key(self, name: str, project: str, scopes: list[str], expires_at: int | None) -> Json:
        """A new API key, with its secret."""
        body = {"name": name, "project": project, "scopes": scopes, "expires_at": expires_at}
        return self._send("POST", "/v1/api_keys", json=body)

    def keys(self) -> list[Json]:
        """API keys, without secrets."""
        return list(self._pages("/v1/api_keys"))

    def revoke_key(self, key_id: str) -> Json:
        """Revoke an API key."""
        return self._send("DELETE", f"/v1/api_keys/{key_id}")

    def evals(self, job_id: str) -> list[Json]:
        """Evaluations of a job, oldest first."""
        return list(self._pages(f"/v1/jobs/{job_id}/evals"))

    def events(self, job_id: str) -> list[Json]:
        """Every event of a job, oldest first."""
        return list(self._pages(f"/v1/jobs/{job_id}/events"))

    def checkpoints(self, job_id: str) -> list[Json]:
        """Checkpoints of a job."""
        return list(self._pages(f"/v1/jobs/{job_id}/checkpoints"))

    def attempts(self, job_id: str) -> list[Json]:
        """Executions of a job, the first one first."""
        return list(self._pages(f"/v1/jobs/{job_id}/attempts"))

    def certificates(self, job_id: str) -> list[Json]:
        """What every attempt that took up an earlier one's work proved about the prompt ledger."""
        return list(self._send("GET", f"/v1/jobs/{job_id}/certificate")["data"])

    def metrics_after(self, job_id: str, after: str | None) -> Iterator[Json]:
        """Events with the metrics of a step, oldest first, behind the event `after`."""
        return self._pages(f"/v1/jobs/{job_id}/events", after, type="metrics")

    def models(self) -> list[Json]:
        """Registered models."""
        return list(self._pages("/v1/models"))

    def export(self, checkpoint_id: str) -> Json:
        """Ask for a checkpoint as a model directory."""
        return self._send("POST", f"/v1/checkpoints/{checkpoint_id}/export")

    def export_status(self, export_id: str) -> Json:
        """How an export goes."""
        return self._send("GET", f"/v1/exports/{export_id}")

    def _pages(self, path: str, after: str | None = None, **selection: str) -> Iterator[Json]:
        while True:
            params = {**selection, "limit": _PAGE, **({} if after is None else {"after": after})}
            page = self._send("GET", path, params=params)
            yield from page["data"]
            if not page.get("has_more"):
                return
            after = page["last_id"]

    def _send(self, method: str, path: str, **arguments: Any) -> Json:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise ClientError(
                f"The API at {self.url} does not answer ({error}). Is the platform running? Start it with `dirl up`.",
                code="unreachable",
            ) from None
        if answer.is_success:
            return dict(answer.json())
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
        return ClientError(f"{answer.request.url} answered {answer.status_code}: {answer.text[:200]}")
