"""Rows as a model sees them: `python -m services.common.model.preview`, for `dirl data check --model`.

Reads a JSON object with the fields of Request from standard input, and writes those of Preview.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from services.common.data.rows import MAX_PROBLEMS_SHOWN, Row, iter_rows
from services.common.data.turns import continue_prompt, messages_of
from services.common.errors import PlatformError
from services.common.job_spec import DataSpec, PromptSpec
from services.common.model.loading import read_tokenizer
from services.common.model.prompts import encode_completion, encode_text, render_prompt

_SMALLEST_BUCKET: Final = 32


@dataclass(frozen=True)
class Request:
    """What to show."""

    file: Path
    model: Path
    data: DataSpec
    prompt: PromptSpec
    num_shown: int
    max_measured: int


@dataclass
class ShownRow:
    """One sample: a prompt, and the response that SFT trains on."""

    place: str
    prompt: str
    completion: str | None


@dataclass
class Preview:
    """The first samples, and the lengths of all that were measured."""

    shown: list[ShownRow] = field(default_factory=list)
    measured: int = 0
    """Samples that were encoded."""
    prompt_tokens: dict[int, int] = field(default_factory=dict)
    """Samples by the upper bound of their length in tokens, a power of two."""
    sample_tokens: dict[int, int] = field(default_factory=dict)
    longest_prompt: int = 0
    longest_sample: int = 0
    num_problems: int = 0
    problems: list[str] = field(default_factory=list)
    """Rows that the chat template refuses; the first ones."""


def main() -> int:
    """Return exit status 0, or 1 with the reason on standard error."""
    try:
        request = TypeAdapter(Request).validate_json(sys.stdin.read())
        preview = preview_rows(request, read_tokenizer(request.model))
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(asdict(preview)) + "\n")
    return 0


def preview_rows(request: Request, tokenizer: PreTrainedTokenizerBase) -> Preview:
    """Encode the rows of a file that was validated, the first ones of which are shown."""
    preview, prompts, samples = Preview(), Counter[int](), Counter[int]()
    rows = islice(iter_rows(request.file, request.data.reading()), request.max_measured)
    for row in rows:
        try:
            for sample, num_prompt, num_completion in _encode(row, request.prompt, tokenizer):
                preview.measured += 1
                preview.shown += [sample] * (len(preview.shown) < request.num_shown)
                prompts[_bucket(num_prompt)] += 1
                samples[_bucket(num_prompt + num_completion)] += 1
                preview.longest_prompt = max(preview.longest_prompt, num_prompt)
                preview.longest_sample = max(preview.longest_sample, num_prompt + num_completion)
        except ValueError as error:
            preview.num_problems += 1
            problem = f"{row.place}: {error}"
            preview.problems += [problem] * (len(preview.problems) < MAX_PROBLEMS_SHOWN)
    preview.prompt_tokens, preview.sample_tokens = (
        dict(sorted(prompts.items())),
        dict(sorted(samples.items())),
    )
    return preview


def _encode(
    row: Row, prompt: PromptSpec, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[ShownRow, int, int]]:
    """Yield each sample of a row with the tokens of its prompt and of its completion."""
    if not row.targets:
        text = render_prompt(tokenizer, messages_of(row.messages, prompt))
        ids = encode_text(tokenizer, text)
        yield ShownRow(row.place, _decode(tokenizer, ids), None), len(ids), 0
    for target in row.targets:
        text = render_prompt(tokenizer, messages_of(target.messages, prompt))
        ids = encode_text(tokenizer, text)
        answer = encode_completion(tokenizer, continue_prompt(text, target.text))
        shown = ShownRow(row.place, _decode(tokenizer, ids), _decode(tokenizer, answer))
        yield shown, len(ids), len(answer)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the text of the ids, not of the row: what the tokenizer loses is missing here, too."""
    text: Any = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def _bucket(length: int) -> int:
    return max(_SMALLEST_BUCKET, 1 << max(0, length - 1).bit_length())


if __name__ == "__main__":
    sys.exit(main())
