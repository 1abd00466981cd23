"""Authentication of gRPC: a token that all services share, and mutual TLS between hosts.

DIRL_RPC_TOKEN and DIRL_RPC_TLS_DIR are read once per process. Plaintext is allowed on loopback
addresses only.
"""

import functools
import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc

from services.common.errors import PlatformError
from services.common.settings import CommonSettings, read_settings
from services.common.telemetry.logs import get_logger

TOKEN_METADATA: Final = "dirl-rpc-token"
_HINT: Final = (
    "Set DIRL_RPC_TLS_DIR to a directory with ca.pem, cert.pem and key.pem; see docs/security.md."
)
_FILES: Final = ("ca", "key", "cert")
_CERTIFICATES_S: Final = 60.0
_RETRY_S: Final = 0.5


@functools.cache
def rpc_security() -> CommonSettings:
    """Settings of this process."""
    return read_settings(CommonSettings)


def _token() -> str:
    """Return the token, "" if none is set."""
    token = rpc_security().rpc_token
    return "" if token is None else token.get_secret_value()


def is_loopback(address: str) -> bool:
    """Whether host:port can be reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_channel(address: str, options: Any) -> grpc.Channel:
    """Open a channel with token and certificate.

    Raises PlatformError("permission_denied") for plaintext to a remote host.
    """
    directory, token = rpc_security().rpc_tls_dir, _token()
    if directory is not None:
        channel = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(*_read_files(directory)),
            options=options,
        )
    elif is_loopback(address):
        channel = grpc.insecure_channel(address, options=options)
    else:
        raise PlatformError(
            "permission_denied",
            f"Cannot call {address} without TLS: it is not a loopback address.",
            hint=_HINT,
        )
    return grpc.intercept_channel(channel, _Token(token)) if token else channel


def add_port(server: grpc.Server, listen: str) -> int:
    """Listen; raises RuntimeError if the address cannot be bound, or is not loopback and has no TLS.

    Waits for certificates that do not exist yet.
    """
    directory = rpc_security().rpc_tls_dir
    if directory is not None:
        _await_certificates(directory)
        authority, key, certificate = _read_files(directory)
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], authority, require_client_auth=True
        )
        return int(server.add_secure_port(listen, credentials))
    if not is_loopback(listen):
        raise RuntimeError(f"the address is reachable from other hosts without encryption. {_HINT}")
    return int(server.add_insecure_port(listen))


def require_token(metadata: Mapping[str, str | bytes]) -> None:
    """Raise PlatformError("unauthenticated") unless the call has the token of this process, if set."""
    expected, given = _token(), metadata.get(TOKEN_METADATA, "")
    if expected and not hmac.compare_digest(str(given).encode(), expected.encode()):
        raise PlatformError(
            "unauthenticated",
            "The call has no valid token; all services must have the same DIRL_RPC_TOKEN.",
        )


class _Token(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Adds the token to every call."""

    def __init__(self, token: str) -> None:
        self._entry = (TOKEN_METADATA, token)

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        """Intercept a unary call."""
        return continuation(self._add_token(details), request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        """Intercept a call with a streamed response."""
        return continuation(self._add_token(details), request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        """Intercept a call with a streamed request."""
        return continuation(self._add_token(details), request)

    def _add_token(self, details: Any) -> Any:
        return details._replace(metadata=(*(details.metadata or ()), self._entry))


def _await_certificates(directory: Path) -> None:
    waited_until = time.monotonic() + _CERTIFICATES_S
    if not _has_certificates(directory):
        get_logger().warning("waiting for certificates", directory=str(directory))
    while not _has_certificates(directory):
        if time.monotonic() > waited_until:
            raise RuntimeError(f"no certificates in {directory}. {_HINT}")
        time.sleep(_RETRY_S)


def _has_certificates(directory: Path) -> bool:
    return all((directory / f"{name}.pem").exists() for name in _FILES)


def _read_files(directory: Path) -> tuple[bytes, bytes, bytes]:
    """Read authority, key and certificate; raises PlatformError("internal") if one is missing."""
    try:
        authority, key, certificate = (
            directory.joinpath(f"{name}.pem").read_bytes() for name in _FILES
        )
    except OSError as error:
        raise PlatformError(
            "internal", f"Cannot read the certificates: {error}.", hint=_HINT
        ) from error
    return authority, key, certificate
