"""`dirl models`: create, convert, list and export models."""

import shutil
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from services.api.cli.connection import connect
from services.api.cli.failure import CommandError
from services.api.cli.options import DEFAULT_DATA_DIR, ApiUrlOption, DataDirOption, JsonOption
from services.api.cli.output import out, print_json, print_table
from services.api.cli.programs import run_module

models_app = typer.Typer(help="Create, convert, list and export models.", no_args_is_help=True)

_MODULE: Final = "services.common.model"
_CHECKS: Final = ("services.rollout.try_model", "services.trainer.training.try_step")
_POLL_S: Final = 0.5

OutOption = Annotated[Path, typer.Option("--out", help="Directory to write; must not exist yet.")]
BlockSizeOption = Annotated[int, typer.Option("--block-size", min=1, help="Tokens per block.")]


def _require_multiple_of_8(value: int) -> int:
    """Require an even width of each of the four heads, for the rotary embedding."""
    if value % 8:
        raise typer.BadParameter(f"{value} is not a multiple of 8.")
    return value


@models_app.command()
def make(
    directory: OutOption,
    block_size: BlockSizeOption = 4,
    hidden_size: Annotated[
        int, typer.Option(min=8, callback=_require_multiple_of_8, help="Width; a multiple of 8.")
    ] = 96,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 4,
    moe: Annotated[bool, typer.Option("--moe", help="Mixture-of-experts layers.")] = False,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal weights.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Create a tiny block-diffusion model with random weights and a character-level tokenizer."""
    shape = {
        "--block-size": block_size,
        "--hidden-size": hidden_size,
        "--layers": layers,
        "--seed": seed,
    }
    options = [part for name, value in shape.items() for part in (name, str(value))]
    _write_model(directory, "make", *options, *(["--moe"] if moe else []))
    _print_path(directory, as_json)


@models_app.command()
def convert(
    source: Annotated[
        Path, typer.Option("--source", help="Directory of a Hugging Face decoder, or a GGUF file.")
    ],
    directory: OutOption,
    block_size: BlockSizeOption = 4,
    check: Annotated[
        bool, typer.Option(help="Load the result, decode eight tokens and train one step with it.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Convert a decoder to a block-diffusion model, which needs SFT afterwards."""
    _write_model(directory, "convert", "--source", str(source), "--block-size", str(block_size))
    if check:
        _check_model(directory)
    _print_path(directory, as_json)


@models_app.command("list")
def list_models(
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the registered models."""
    with connect(api_url, data_dir) as api:
        models = api.models()
    if as_json:
        print_json({"data": models})
    else:
        print_table(
            ("ID", "NAME", "PATH"),
            ((item.id, item.name, item.path) for item in models),
        )


@models_app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="Id of a checkpoint (ckpt_…).")],
    directory: OutOption,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    api_url: ApiUrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export a checkpoint to a Hugging Face model directory."""
    _require_new(directory)
    with connect(api_url, data_dir) as api:
        finished = api.export(checkpoint)
        while finished.state in ("queued", "running"):
            time.sleep(_POLL_S)
            finished = api.export_status(finished.id)
        if (error := finished.error) is not None:
            raise CommandError(f"The export failed: {error.message}", code=error.code)
    shutil.copytree(finished.path, directory)
    _print_path(directory, as_json)


def _write_model(directory: Path, *arguments: str) -> None:
    _require_new(directory)
    run_module(_MODULE, *arguments, "--out", str(directory))


def _check_model(directory: Path) -> None:
    """Decode and train with a new model; removes one that cannot."""
    try:
        for module in _CHECKS:
            run_module(module, str(directory))
    except CommandError as error:
        shutil.rmtree(directory)
        raise CommandError(
            f"The converted model does not work: {error}\n{directory} was removed; --no-check keeps it."
        ) from None


def _require_new(directory: Path) -> None:
    if directory.exists():
        raise CommandError(
            f"Cannot write a model to {directory}: it already exists. Choose another --out."
        )


def _print_path(directory: Path, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(directory.resolve())})
    else:
        out.print(str(directory), markup=False)
