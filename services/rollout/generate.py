"""`python -m services.rollout.generate`: a model answers one question, and the denoising can be
watched.

On a terminal the response is redrawn at every step, masked positions as dots; elsewhere only the
answer is written.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Final

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from services.common.codec import response_to_json
from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel, load_model
from services.common.model.prompts import encode_prompt
from services.common.model_source import resolve_model
from services.common.trajectory import Response
from services.rollout.engines.base import DenoisingEvent, GenerationRequest
from services.rollout.engines.torch_engine import TorchEngine
from services.rollout.playground_request import PlaygroundRequest, to_generation_request

PLACEHOLDER: Final = "░"
"""Shown for a position that is not committed yet."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 1 with the reason on standard error."""
    options = _parser().parse_args(arguments)
    try:
        loaded = load_model(
            resolve_model(options.model),
            options.dtype,
            "cuda" if torch.cuda.is_available() else "cpu",
        )
        response = _generate_response(loaded, options)
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    text = str(loaded.tokenizer.decode(response.visible_ids.tolist(), skip_special_tokens=True))
    fields = {"text": text, **response_to_json(response)}
    sys.stdout.write((json.dumps(fields) if options.json else text) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    """Define the options."""
    parser = argparse.ArgumentParser(
        prog="python -m services.rollout.generate", description=__doc__
    )
    parser.add_argument("question")
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="model directory, or name on the Hugging Face hub",
    )
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument(
        "--threshold", type=float, default=0.9, help="commit positions at least this confident"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object with tokens, steps and log-probabilities",
    )
    return parser


def _generate_response(loaded: LoadedModel, options: argparse.Namespace) -> Response:
    """Decode, drawing on the terminal if standard output is one."""
    prompt = encode_prompt(loaded.tokenizer, [{"role": "user", "content": options.question}])
    question = PlaygroundRequest(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        confidence_threshold=options.threshold,
        seed=options.seed,
    )
    request = to_generation_request(loaded, prompt, question)
    console = Console()
    if options.json or not console.is_terminal:
        return _decode(loaded, request, None)
    with Live(console=console, refresh_per_second=20, transient=True) as live:
        return _decode(
            loaded, request, lambda event: live.update(_frame(loaded, event), refresh=True)
        )


def _decode(
    loaded: LoadedModel,
    request: GenerationRequest,
    on_step: Callable[[DenoisingEvent], None] | None,
) -> Response:
    """Decode one response."""
    needed = len(request.prompt_ids) + request.decoding.max_new_tokens
    engine = TorchEngine(loaded, max_sequence_tokens=needed, max_batch_size=1, on_step=on_step)
    engine.submit([request])
    finished: dict[str, Response] = {}
    while not finished:
        finished = engine.step()
    [response] = finished.values()
    return response


def _frame(loaded: LoadedModel, event: DenoisingEvent) -> Text:
    """The response so far; what the step committed stands out."""
    text = Text()
    committed = set(event.committed.tolist())
    for offset, token in enumerate(event.token_ids.tolist()):
        masked = token == loaded.mask_token_id
        shown = PLACEHOLDER if masked else str(loaded.tokenizer.decode([token]))
        text.append(shown, style="dim" if masked else "bold green" if offset in committed else "")
    return text.append(f"\n[step {event.step}]", style="dim")


if __name__ == "__main__":
    sys.exit(main())
