"""`dirl generate`: let a model answer one question."""

from typing import Annotated, Final

import typer

from services.api.cli.options import JsonOption
from services.api.cli.programs import show_module

_MODULE: Final = "services.rollout.generate"


def generate(
    question: Annotated[str, typer.Argument(help="Text of the user's turn.")],
    model: Annotated[
        str, typer.Option("--model", help="Model directory, or name on the Hugging Face hub.")
    ],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Confidence that commits a position.")
    ] = 0.9,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Let a model answer one question, and watch the denoising on a terminal; no platform is
    needed.
    """
    options = {
        "--model": model,
        "--max-new-tokens": max_new_tokens,
        "--temperature": temperature,
        "--threshold": threshold,
        "--seed": seed,
    }
    arguments = [part for name, value in options.items() for part in (name, str(value))]
    show_module(_MODULE, *arguments, *(["--json"] if as_json else []), "--", question)
