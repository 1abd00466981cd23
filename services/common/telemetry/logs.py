"""Structured logs on stderr, as JSON or text, for the loggers of the platform and of libraries."""

import logging
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from services.common.settings import redact
from services.common.telemetry.last_error import MEMORY

LogFormat = Literal["json", "console"]


def get_logger() -> structlog.stdlib.BoundLogger:
    """Return a logger: `log.info("policy published", weight_version=13, seconds=0.84)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()
    return logger


def configure_logging(service: str, level: str, format: LogFormat) -> None:
    """Log everything at or above `level` to stderr, and remember the last error."""

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_renderers(format))
    )
    root = logging.getLogger()
    root.handlers[:] = [handler, MEMORY]
    root.setLevel(level.upper())


def _renderers(format: LogFormat) -> list[Processor]:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if format == "console":
        return [
            remove,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # Rich tracebacks with locals take seconds and may print secrets.
                exception_formatter=structlog.dev.plain_traceback,
            ),
            _redact,
        ]
    return [
        remove,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
        _redact,
    ]


def _redact(_logger: WrappedLogger, _method: str, line: Any) -> str:
    """Remove secrets that a library put into its message."""
    return redact(line)
