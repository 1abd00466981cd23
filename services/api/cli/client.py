"""The REST API as the commands see it; every failure is a CommandError with the server's own message."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import httpx

from services.api.cli.failure import CommandError
from services.api.embedded.locations import running_platform

_TIMEOUT_S: Final = 60.0
_PAGE: Final = 1000

Json = dict[str, Any]


class ApiClient:
    """One connection to the API; use as a context manager."""

    def __init__(self, url: str) -> None:
        key = os.environ.get("DIRL_API_KEY")
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

    def create_job(self, spec: Json) -> Json:
        """Submit a job spec."""
        return self._send("POST", "/v1/jobs", json=spec)

    def job(self, job_id: str) -> Json:
        """One job."""
        return self._send("GET", f"/v1/jobs/{job_id}")

    def jobs(self, limit: int) -> list[Json]:
        """The newest jobs first."""
        return list(self._send("GET", "/v1/jobs", params={"limit": limit})["data"])

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

    def models(self) -> list[Json]:
        """Registered models."""
        return list(self._pages("/v1/models"))

    def export(self, checkpoint_id: str) -> Json:
        """Ask for a checkpoint as a model directory."""
        return self._send("POST", f"/v1/checkpoints/{checkpoint_id}/export")

    def export_status(self, export_id: str) -> Json:
        """How an export goes."""
        return self._send("GET", f"/v1/exports/{export_id}")

    def _pages(self, path: str) -> Iterator[Json]:
        after: str | None = None
        while True:
            params: dict[str, str | int] = {"limit": _PAGE} if after is None else {"limit": _PAGE, "after": after}
            page = self._send("GET", path, params=params)
            yield from page["data"]
            if not page.get("has_more"):
                return
            after = page["last_id"]

    def _send(self, method: str, path: str, **arguments: Any) -> Json:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise CommandError(
                f"The API at {self.url} does not answer ({error}). Is the platform running? Start it with `dirl up`.",
                code="unreachable",
            ) from None
        if answer.is_success:
            return dict(answer.json())
        raise _refusal(answer)


def connect(api_url: str | None, data_dir: Path) -> ApiClient:
    """The API that was named, else the one of the platform on the data directory; raises CommandError."""
    if api_url is not None:
        return ApiClient(api_url)
    platform = running_platform(data_dir)
    if platform is None:
        raise CommandError(
            f"No platform runs on {data_dir}. Start one with `dirl up`, or name its API with --api-url.",
            code="unreachable",
        )
    return ApiClient(platform.api_url)


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise CommandError(f"Cannot read {path}: {error.strerror}.") from None


def _refusal(answer: httpx.Response) -> CommandError:
    try:
        error = answer.json()["error"]
        return CommandError(str(error["message"]), code=str(error["code"]))
    except (ValueError, KeyError, TypeError):
        return CommandError(f"{answer.request.url} answered {answer.status_code}: {answer.text[:200]}")
