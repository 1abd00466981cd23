"""Who may call whom: a token that all services share, TLS with certificates of both sides beyond
this machine.

DIRL_RPC_TOKEN and DIRL_RPC_TLS_DIR are read once per process. Plaintext stays on loopback
addresses.
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
_WAY_OUT: Final = "Set DIRL_RPC_TLS_DIR to a directory with ca.pem, cert.pem and key.pem; docs/security.md says how."
_FILES: Final = ("ca", "key", "cert")
_CERTIFICATES_S: Final = 60.0
_RETRY_S: Final = 0.5


@functools.cache
def rpc_security() -> CommonSettings:
    """This process's settings."""
    return read_settings(CommonSettings)


def _token() -> str:
    """Empty when none is set."""
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
    """A channel that proves who we are; raises PlatformError("permission_denied") for plaintext
    beyond loopback.
    """
    directory, token = rpc_security().rpc_tls_dir, _token()
    if directory is not None:
        channel = grpc.secure_channel(address, _channel_credentials(directory), options=options)
    elif is_loopback(address):
        channel = grpc.insecure_channel(address, options=options)
    else:
        raise PlatformError(
            "permission_denied", f"Cannot call {address}: it is not of this machine.", hint=_WAY_OUT
        )
    return grpc.intercept_channel(channel, _Token(token)) if token else channel


def add_port(server: grpc.Server, listen: str) -> int:
    """Listen; raises RuntimeError when the address cannot be bound, or would be open to others in
    plaintext.

    Certificates that are not there yet are waited for.
    """
    directory = rpc_security().rpc_tls_dir
    if directory is not None:
        _await_certificates(directory)
        return int(server.add_secure_port(listen, _server_credentials(directory)))
    if not is_loopback(listen):
        raise RuntimeError(
            f"the address can be reached from other machines, and nothing is encrypted. {_WAY_OUT}"
        )
    return int(server.add_insecure_port(listen))


def require_token(metadata: Mapping[str, str | bytes]) -> None:
    """Raise PlatformError("unauthenticated") unless the call has the token that this process has,
    if it has one.
    """
    expected, given = _token(), metadata.get(TOKEN_METADATA, "")
    if expected and not hmac.compare_digest(str(given).encode(), expected.encode()):
        raise PlatformError(
            "unauthenticated",
            "The call has no valid token; services of one installation share DIRL_RPC_TOKEN.",
        )


class _Token(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Sends the token with every call."""

    def __init__(self, token: str) -> None:
        self._entry = (TOKEN_METADATA, token)

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        """A call."""
        return continuation(self._named(details), request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        """A call whose answer is streamed."""
        return continuation(self._named(details), request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        """A call whose request is streamed."""
        return continuation(self._named(details), request)

    def _named(self, details: Any) -> Any:
        return details._replace(metadata=(*(details.metadata or ()), self._entry))


def _await_certificates(directory: Path) -> None:
    waited_until = time.monotonic() + _CERTIFICATES_S
    if not _has_certificates(directory):
        get_logger().warning("waiting for certificates", directory=str(directory))
    while not _has_certificates(directory):
        if time.monotonic() > waited_until:
            raise RuntimeError(f"there are no certificates in {directory}. {_WAY_OUT}")
        time.sleep(_RETRY_S)


def _has_certificates(directory: Path) -> bool:
    return all((directory / f"{name}.pem").exists() for name in _FILES)


def _channel_credentials(directory: Path) -> grpc.ChannelCredentials:
    authority, key, certificate = _files(directory)
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _server_credentials(directory: Path) -> grpc.ServerCredentials:
    authority, key, certificate = _files(directory)
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


def _files(directory: Path) -> tuple[bytes, bytes, bytes]:
    """Of the authority, the key, the certificate; raises PlatformError("internal") when they are
    not there.
    """
    try:
        authority, key, certificate = (
            directory.joinpath(f"{name}.pem").read_bytes() for name in _FILES
        )
    except OSError as error:
        raise PlatformError(
            "internal", f"The certificates cannot be read: {error}.", hint=_WAY_OUT
        ) from error
    return authority, key, certificate
