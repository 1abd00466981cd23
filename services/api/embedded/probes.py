"""Whether a service is ready: what its log says, and whether its address answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from services.common.rpc.client import probe

_TIMEOUT_S: Final = 2.0

Probe = Callable[[], bool]


def grpc_serving(address: str) -> Probe:
    """grpc.health.v1 answers SERVING."""
    return lambda: probe(address, _TIMEOUT_S)


def http_ready(url: str) -> Probe:
    """GET answers 200."""

    def is_ready() -> bool:
        try:
            return httpx.get(url, timeout=_TIMEOUT_S, trust_env=False).is_success
        except httpx.TransportError:
            return False

    return is_ready


def log_says(path: Path, text: str, *others: Probe) -> Probe:
    """`text` stands in what was written to the log after this call, and the other probes agree.

    An answer alone does not tell whose it is: another program may have taken the port.
    """
    before = path.stat().st_size if path.exists() else 0

    def is_ready() -> bool:
        if not path.exists():
            return False
        with path.open("rb") as file:
            file.seek(before)
            said = text.encode() in file.read()
        return said and all(other() for other in others)

    return is_ready
