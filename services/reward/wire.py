"""Messages between the serving process, the zygote and the workers: one JSON object per packet,
over Unix sockets.
"""

import json
import socket
from typing import Any, Final

_MAX_PACKET: Final = 131_072  # two texts of 1,500 characters, escaped, with room to spare


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends that keep message boundaries; an end that is closed reads as None at the
    other.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: dict[str, Any]) -> None:
    """Send one message; raises OSError when the other side is gone."""
    end.send(json.dumps(message).encode())


def receive(end: socket.socket) -> dict[str, Any] | None:
    """The next message, or None when the other side is gone; raises TimeoutError after the socket's
    timeout.
    """
    try:
        data = end.recv(_MAX_PACKET)
    except ConnectionError:
        return None
    return _decoded(data)


def send_with_socket(end: socket.socket, message: dict[str, Any], passed: socket.socket) -> None:
    """Send one message and a duplicate of `passed`."""
    socket.send_fds(end, [json.dumps(message).encode()], [passed.fileno()])


def receive_with_socket(end: socket.socket) -> tuple[dict[str, Any] | None, socket.socket | None]:
    """The next message and the socket sent with it, if any."""
    try:
        data, descriptors, _, _ = socket.recv_fds(end, _MAX_PACKET, 1)
    except ConnectionError:
        return None, None
    return _decoded(data), socket.socket(fileno=descriptors[0]) if descriptors else None


def _decoded(data: bytes) -> dict[str, Any] | None:
    message: dict[str, Any] | None = json.loads(data) if data else None
    return message
