"""Free TCP ports of the loopback interface."""

import random
import socket
from typing import Final

from services.common.errors import PlatformError

LOOPBACK: Final = "127.0.0.1"
# Below the range from which Linux takes the ports of outgoing connections: a service that is
# restarted must find its port free.
_RANGE: Final = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Distinct ports on which no process listens."""
    found: list[int] = []
    # The system's generator: a seeded one would give two platforms the same ports.
    for port in random.SystemRandom().sample(_RANGE, len(_RANGE)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    if len(found) < count:
        raise PlatformError("internal", f"Only {len(found)} of {count} ports in {_RANGE} are free.")
    return found
