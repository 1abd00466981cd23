"""`python -m services.api`: the REST API."""

import gc
import logging
import socket
import sys
from importlib import import_module
from types import FrameType
from typing import Final

import uvicorn

from services.api.db.access import create_first_key
from services.api.db.migrate import wait_for_schema
from services.api.http.app import create_app
from services.api.http.protocol import make_server_config
from services.api.http.resources import Resources, open_resources
from services.api.settings import ApiSettings
from services.common.rpc.security import is_loopback
from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging, get_logger
from services.common.telemetry.tracing import configure_tracing

_TRACED: Final = "opentelemetry.instrumentation.fastapi"
_UNTRACED: Final = "healthz,readyz,metrics,assets"
_PARTS: Final = ["receive", "send"]
"""Pieces of a body or a stream of events have no spans of their own."""


class _Server(uvicorn.Server):
    """Says when it is ready, and closes streams of events before it waits for requests to end."""

    def __init__(self, config: uvicorn.Config, resources: Resources) -> None:
        super().__init__(config)
        self._resources = resources

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        # What was imported lives as long as the process; to walk it again at every collection costs
        # requests a pause.
        gc.collect()
        gc.freeze()
        if self.started:
            get_logger().info("api ready", address=self._resources.settings.api_listen)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT."""
        # Not the parent's: it would raise the signal again at the end, and a clean stop would look
        # like a crash.
        self._resources.stopping.set()
        self.force_exit = self.should_exit
        self.should_exit = True


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = read_settings(ApiSettings)
    configure_logging("api", settings.log_level, settings.log_format)
    configure_tracing("api", settings.otlp_endpoint)
    logging.getLogger("uvicorn.error").setLevel(
        logging.WARNING
    )  # five lines that "api ready" says in one
    wait_for_schema(settings.database_url)
    host, _, port = settings.api_listen.rpartition(":")
    with open_resources(settings) as resources:
        if not is_loopback(settings.api_listen):
            # The API listens beyond loopback only with keys: the first one is made here and shown once,
            # on standard output, because the database keeps its hash alone.
            with resources.database.begin() as session:
                secret = create_first_key(session)
            if secret is not None:
                sys.stdout.write(
                    f"The first API key, with all rights; it is shown this once:\n\n    {secret}\n\n"
                )
                sys.stdout.flush()
        app = create_app(resources)
        if settings.otlp_endpoint is not None:
            import_module(_TRACED).FastAPIInstrumentor.instrument_app(
                app, excluded_urls=_UNTRACED, exclude_spans=_PARTS
            )
        config = make_server_config(app, host, int(port))
        _Server(config, resources).run()


if __name__ == "__main__":
    main()
