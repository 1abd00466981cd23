"""`dirl generate`: generate a response to one prompt."""

from typing import Annotated, Final

import typer

from services.api.cli.options import JsonOption
from services.api.cli.programs import show_module

_MODULE: Final = "services.rollout.generate"


def generate(
    prompt: Annotated[str, typer.Argument(help="Text of the user turn.")],
    model: Annotated[
        str, typer.Option("--model", help="Model directory, or name on the Hugging Face hub.")
    ],
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of the response, in tokens.")
    ] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 uses greedy decoding.")] = 0.0,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Confidence that commits a position.")
    ] = 0.9,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Generate a response and show the denoising steps on a terminal, without a platform."""
    options = {
        "--model": model,
        "--max-new-tokens": max_new_tokens,
        "--temperature": temperature,
        "--threshold": threshold,
        "--seed": seed,
    }
    arguments = [part for name, value in options.items() for part in (name, str(value))]
    show_module(_MODULE, *arguments, *(["--json"] if as_json else []), "--", prompt)
