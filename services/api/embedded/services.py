"""The platform's own processes on one machine: commands, environments, readiness."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.api.embedded.modules import module_command, module_environment
from services.api.embedded.ports import LOOPBACK, free_ports
from services.api.embedded.probes import Probe, grpc_serving, http_ready, log_says
from services.api.embedded.processes import Service
from services.api.embedded.servers import DATABASE_VARIABLE, REDIS_VARIABLE, ServerUrls

_SCHEDULER: Final = "services.api.scheduler"


@dataclass(frozen=True)
class Addresses:
    """host:port of every service that listens."""

    api: str
    reward: str
    trainer: str
    rollout: tuple[str, ...]

    @property
    def api_url(self) -> str:
        """Base URL of the REST API."""
        return f"http://{self.api}"


def choose_addresses(api_port: int, rollout_replicas: int) -> Addresses:
    """Free loopback ports, the API's as given."""
    reward, trainer, *rollout = (f"{LOOPBACK}:{port}" for port in free_ports(2 + rollout_replicas))
    return Addresses(f"{LOOPBACK}:{api_port}", reward, trainer, tuple(rollout))


def shared_environment(data_dir: Path, urls: ServerUrls, addresses: Addresses) -> dict[str, str]:
    """What every process gets: settings, import path, and limits that keep many small processes
    small.
    """
    return {
        **module_environment(),
        "PYTHONUNBUFFERED": "1",
        # Above "info" the lines that say "ready" would be missing.
        "DIRL_LOG_LEVEL": "debug" if os.environ.get("DIRL_LOG_LEVEL") == "debug" else "info",
        "MALLOC_ARENA_MAX": "2",
        "TOKENIZERS_PARALLELISM": "false",
        # Rollout and learner take turns; spinning threads of the one would slow the other.
        "OMP_WAIT_POLICY": "PASSIVE",
        DATABASE_VARIABLE: urls.database,
        REDIS_VARIABLE: urls.redis,
        "DIRL_RPC_TOKEN": urls.rpc_token,
        "DIRL_DATA_DIR": str(data_dir),
        "DIRL_API_LISTEN": addresses.api,
        "DIRL_REWARD_LISTEN": addresses.reward,
        "DIRL_TRAINER_LISTEN": addresses.trainer,
        "DIRL_REWARD_ADDRESS": addresses.reward,
        "DIRL_TRAINER_ADDRESSES": addresses.trainer,
        "DIRL_ROLLOUT_ADDRESSES": ",".join(addresses.rollout),
        "DIRL_TORCH_THREADS": os.environ.get("DIRL_TORCH_THREADS", str(os.cpu_count() or 1)),
    }


def migration_command() -> tuple[str, ...]:
    """Brings the database to the newest schema and ends."""
    return module_command("services.api.db")


def platform_services(
    env: dict[str, str], addresses: Addresses, log_path: Callable[[str], Path]
) -> Iterator[Service]:
    """All services, in the order of their start.

    They are stopped in the opposite order: first what gives out work, last the recorder of what was
    done.
    """

    def service(
        name: str, command: tuple[str, ...], line: str, *probes: Probe, **fields: Any
    ) -> Service:
        return Service(
            name, command, ready=log_says(log_path(name), line, *probes), **{"env": env, **fields}
        )

    def grpc_service(name: str, kind: str, address: str, own: dict[str, str]) -> Service:
        command = module_command(f"services.{kind}")
        return service(
            name,
            command,
            f"{kind} ready",
            grpc_serving(address),
            address=address,
            env={**env, **own},
        )

    yield service("recorder", module_command("services.api.recorder"), "recorder ready")
    yield grpc_service("reward", "reward", addresses.reward, {})
    for number, address in enumerate(addresses.rollout, start=1):
        name = f"rollout-{number}"
        yield grpc_service(
            name, "rollout", address, {"DIRL_ROLLOUT_LISTEN": address, "DIRL_ROLLOUT_NAME": name}
        )
    yield grpc_service("trainer", "trainer", addresses.trainer, {})
    yield service("worker", module_command(_SCHEDULER, "worker"), "scheduler ready")
    yield service("beat", module_command(_SCHEDULER, "beat"), "beat: Starting...")
    answers = http_ready(f"{addresses.api_url}/readyz")
    yield service(
        "api", module_command("services.api"), "api ready", answers, address=addresses.api
    )
