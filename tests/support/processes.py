"""Services as real processes: started, awaited, stopped, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services.common.rpc.client import probe

ROOT = Path(__file__).resolve().parents[2]


def prometheus_samples(address: str) -> dict[str, float]:
    """What a process at host:port tells Prometheus, by name{label=value,…} with labels in order."""
    text = httpx.get(f"http://{address}/metrics", trust_env=False).text
    samples = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    return {_title(sample.name, sample.labels): sample.value for sample in samples}


def _title(name: str, labels: Mapping[str, str]) -> str:
    return (
        f"{name}{{{','.join(f'{key}={labels[key]}' for key in sorted(labels))}}}"
        if labels
        else name
    )


class ServiceProcess:
    """A running `python -m <module>` in a process group of its own."""

    def __init__(self, module: str, log_path: Path, environment: Mapping[str, str]) -> None:
        self.module, self.log_path = module, log_path
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def output(self) -> str:
        """What it wrote so far."""
        return self.log_path.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait for a condition; fails with the output when the process ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(
                    f"{self.module} ended with {self.process.returncode}:\n{self.output()}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.module}: {what} not within {timeout_s} s:\n{self.output()}"
                )
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL the whole group: the fault of a lost machine."""
        self._signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM the service, as an orchestrator does; its exit status."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def group_is_gone(self) -> bool:
        """Whether no process of the group is left."""
        return not self._signal(0)

    def _signal(self, number: int) -> bool:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def running_process(
    module: str, log_path: Path, environment: Mapping[str, str]
) -> Iterator[ServiceProcess]:
    """A process that is gone afterwards, with everything it started."""
    service = ServiceProcess(module, log_path, environment)
    try:
        yield service
    finally:
        service.kill()


@contextmanager
def running_grpc_service(
    module: str, log_path: Path, address: str, environment: Mapping[str, str]
) -> Iterator[ServiceProcess]:
    """A gRPC service, serving at `address` when the block begins."""
    with running_process(module, log_path, environment) as service:
        service.wait_until(lambda: probe(address, 1.0), f"SERVING at {address}")
        yield service
