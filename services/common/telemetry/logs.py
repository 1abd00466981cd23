"""Structured logs: one line per fact on stderr, JSON or console, for our loggers and those of
libraries alike.
"""

import logging
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from services.common.settings import redacted
from services.common.telemetry.last_error import MEMORY

LogFormat = Literal["json", "console"]


def get_logger() -> structlog.stdlib.BoundLogger:
    """A logger: `log.info("policy published", weight_version=13, seconds=0.84)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()
    return logger


def configure_logging(service: str, level: str, format: LogFormat) -> None:
    """Send everything at or above `level` to stderr, each line with time, level and service; the
    last error is kept.
    """

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
                # Drawn frames with all locals take seconds and may print secrets.
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
    """No secret stands in a log, whatever a library put into its message."""
    return redacted(line)
