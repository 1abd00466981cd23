"""Settings of a process, read from the environment (prefix DIRL_) and validated at the start."""

import re
import sys
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX: Final = "DIRL_"
_MAX_PORT = 65535


def _host_port(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not (host and separator and port.isdecimal() and int(port) <= _MAX_PORT):
        raise ValueError(f"must be host:port with a port of 0..{_MAX_PORT}, e.g. 127.0.0.1:50051")
    return value


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _s3_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be s3://bucket or s3://bucket/prefix")
    return value.rstrip("/")


EXAMPLE_SECRET: Final = "change-me"
"""Value of every secret in example files; a process refuses to start with it."""


def reject_example_password(url: str) -> str:
    """Reject a URL with the password of the example files."""
    if urlsplit(url).password == EXAMPLE_SECRET:
        raise ValueError(f"its password is the example {EXAMPLE_SECRET!r}; {_ANOTHER}")
    return url


def _reject_example_secret(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and secret.get_secret_value() == EXAMPLE_SECRET:
        raise ValueError(f"is the value of the example files; {_ANOTHER}")
    return secret


_ANOTHER: Final = "choose another, e.g. with `openssl rand -hex 24`"

HostPort = Annotated[
    str, AfterValidator(_host_port), Field(json_schema_extra={"format": "host:port"})
]
"""host:port; port 0 lets the system choose (for listening only)."""
HostPorts = Annotated[tuple[HostPort, ...], NoDecode, BeforeValidator(_split)]
"""Comma-separated host:port list."""
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Comma-separated names."""

ObjectStoreUrl = Annotated[str, AfterValidator(_s3_url)]
"""s3://bucket/prefix."""


class CommonSettings(BaseSettings):
    """Settings that all processes of an installation share; services derive from it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        use_attribute_docstrings=True,  # read by the reference page of the environment
    )

    redis_url: Annotated[str, AfterValidator(reject_example_password)] = "redis://127.0.0.1:6379/0"
    """Redis or Valkey server of the streams and of the Celery broker; `rediss://` for TLS."""
    data_dir: Path = Path("/var/lib/dirl")
    """Directory that all services of one installation share: files, models, checkpoints, journals."""
    object_store_url: ObjectStoreUrl | None = None
    """s3://bucket/prefix for copies of checkpoints and journals. Unset, they are on the shared
    volume alone.
    """
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_format: Literal["json", "console"] = "json"
    """Format of log lines on standard error: JSON, or text for people."""
    otlp_endpoint: str | None = Field(None, pattern=r"^https?://[^/]+$")
    """OTLP/gRPC collector for traces, e.g. http://collector:4317 (http is plaintext). Unset, no
    traces are sent.
    """
    metrics_listen: HostPort | None = None
    """Address where this process serves Prometheus metrics at /metrics. Unset, it serves none; the
    API always serves them on its own address.
    """
    rpc_token: Annotated[SecretStr | None, AfterValidator(_reject_example_secret)] = None
    """Secret that all services of one installation share and send with every gRPC call."""
    rpc_tls_dir: Path | None = None
    """Directory with `ca.pem` (the authority of all services' certificates), `cert.pem` and
    `key.pem` (of this process). Required beyond loopback.
    """


_SECRETS: Final = re.compile(r"(://)[^/@\s]*@|(sk-dirl-|whsec_)[\w+/=-]+")


def redact(text: str) -> str:
    """Remove passwords of URLs, API keys and webhook secrets.

    >>> redact("redis://:secret@host/0")
    'redis://…@host/0'
    """
    return _SECRETS.sub(lambda match: f"{match[1]}…@" if match[1] else f"{match[2]}…", text)


SettingsT = TypeVar("SettingsT", bound=CommonSettings)


def read_settings(settings: type[SettingsT]) -> SettingsT:
    """Read the settings; ends the process with all problems on stderr if there are any.

    >>> read_settings(CommonSettings).log_format
    'json'
    """
    try:
        return settings()
    except ValidationError as error:
        problems = "\n".join(
            f"  {PREFIX}{'.'.join(map(str, item['loc'])).upper()}: {item['msg']} (got {redact(repr(item['input']))})"
            for item in error.errors(include_url=False)
        )
        sys.exit(f"The environment cannot be used: {error.error_count()} problem(s)\n{problems}")
