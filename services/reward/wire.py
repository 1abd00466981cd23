"""Messages between the serving process, the zygote and the workers: JSON packets over Unix sockets."""

import json
import socket
from typing import Any, Final

_MAX_PACKET: Final = 131_072  # two texts of 1,500 characters, escaped, with a margin


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that keep message boundaries."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: dict[str, Any]) -> None:
    """Send one message; raises OSError if the other end is closed."""
    end.send(json.dumps(message).encode())


def receive(end: socket.socket) -> dict[str, Any] | None:
    """Return the next message, or None if the other end is closed.

    Raises TimeoutError after the timeout of the socket.
    """
    try:
        data = end.recv(_MAX_PACKET)
    except ConnectionError:
        return None
    return _decode(data)


def send_with_socket(end: socket.socket, message: dict[str, Any], passed: socket.socket) -> None:
    """Send one message and a duplicate of `passed`."""
    socket.send_fds(end, [json.dumps(message).encode()], [passed.fileno()])


def receive_with_socket(end: socket.socket) -> tuple[dict[str, Any] | None, socket.socket | None]:
    """Return the next message and the socket sent with it, if any."""
    try:
        data, descriptors, _, _ = socket.recv_fds(end, _MAX_PACKET, 1)
    except ConnectionError:
        return None, None
    return _decode(data), socket.socket(fileno=descriptors[0]) if descriptors else None


def _decode(data: bytes) -> dict[str, Any] | None:
    message: dict[str, Any] | None = json.loads(data) if data else None
    return message
