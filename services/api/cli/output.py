"""Output of commands: results as text or JSON on standard output, progress and notes on standard
error.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import typer
from pydantic import BaseModel
from rich.console import Console

out: Final = Console(highlight=False, soft_wrap=True)
notes: Final = Console(stderr=True, highlight=False, soft_wrap=True)

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_KIBI: Final = 1024


def print_json(value: Any) -> None:
    """Print a JSON value on one line; schemas of the API are printed as the API sends them."""
    typer.echo(json.dumps(value, allow_nan=False, default=_to_plain))


def _to_plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table without wrapping, so that ids and paths can be copied; None is a dash."""
    lines = [
        tuple(columns),
        *(tuple("-" if cell is None else str(cell) for cell in row) for row in rows),
    ]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        out.print(text.rstrip(), markup=False, no_wrap=True, overflow="ignore", crop=False)


def print_result(value: Any, line: str, as_json: bool) -> None:
    """Print a result as JSON, or as one line."""
    if as_json:
        print_json(value)
    else:
        out.print(line, markup=False)


def format_time(seconds: int) -> str:
    """Format Unix seconds in the time zone of this machine, e.g. `2026-01-31 12:00`."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def size(num_bytes: float) -> str:
    """Format bytes, e.g. `1.5 GiB`."""
    for unit in _UNITS[:-1]:
        if num_bytes < _KIBI:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= _KIBI
    return f"{num_bytes:.1f} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """Format seconds, e.g. `1:02:03` or `4:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
