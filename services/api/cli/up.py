"""`dirl up`: run the platform on this machine."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from services.api.cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption
from services.api.cli.output import notes, out, print_json
from services.api.embedded.platform import LocalPlatform
from services.api.embedded.processes import Service

PortOption = Annotated[
    int | None,
    typer.Option(
        "--port", min=1, max=65535, help="Port of the API [default: 8000, or a free one]."
    ),
]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""


def up(
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    port: PortOption = None,
    replicas: Annotated[
        int, typer.Option("--rollout-replicas", min=1, help="Rollout services to start.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Run the platform on this machine until Ctrl-C."""
    try:
        with (
            stop_signals(),
            LocalPlatform(
                data_dir, on_ready=tell_ready, report=tell, api_port=port, rollout_replicas=replicas
            ) as platform,
        ):
            _announce(platform, as_json)
            signal.pause()
    except Interrupted:
        tell("stopped")


def tell(line: str) -> None:
    """Print a note."""
    notes.print(line, markup=False)


def tell_ready(service: Service, seconds: float) -> None:
    """Print that a process is ready."""
    notes.print(
        f"{seconds:6.1f} s  {service.name:<10} ready  {service.address}".rstrip(), markup=False
    )


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raise Interrupted at the first SIGINT, SIGTERM or SIGHUP in the block; ignore later ones."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # the shutdown must not be interrupted
        raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(platform: LocalPlatform, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "api_url": platform.api_url,
                "data_dir": str(platform.data_dir),
                "processes": platform.pids(),
            }
        )
        return
    out.print(f"API        {platform.api_url}", markup=False)
    out.print(f"data       {platform.data_dir}", markup=False)
    out.print("Press Ctrl-C to stop.")
