"""Lengths of a job's longest samples in tokens: they decide whether rows fit, and the size of a
training pass.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.api.adapters.tokenizers import count_tokens
from services.api.use_cases.job_checks import FileUse
from services.common.data.rows import iter_rows
from services.common.data.turns import messages_of
from services.common.errors import Problem
from services.common.job_spec import JobSpec

_MEASURED: Final = 256
"""Rows of a file that are tokenised: those with the most characters, among which the longest in
tokens is.
"""


@dataclass(frozen=True)
class Lengths:
    """The longest samples of a file; tokens, without those that a chat template adds."""

    measured: int
    """Rows that were tokenised, of the file's longest."""
    longest_prompt: int
    longest_sample: int
    """Prompt with its completion, or with the response that rollouts may give."""
    too_long: int
    """Of the measured rows, those that exceed prompt.max_prompt_tokens or trainer.seq_len and will
    be dropped.
    """


def measure_lengths(use: FileUse, model: Path, spec: JobSpec) -> Lengths | None:
    """Lengths of a file's longest rows; None when the model has no tokenizer to measure with."""
    rows = heapq.nlargest(
        _MEASURED,
        iter_rows(use.path, use.reading),
        key=lambda row: row.prompt_chars + len(row.completion or ""),
    )
    turns = (messages_of(row.messages, spec.prompt) for row in rows)
    prompts = count_tokens(model, ["\n".join(turn["content"] for turn in each) for each in turns])
    completions = (
        count_tokens(model, [row.completion or "" for row in rows]) if use.needs == "sft" else None
    )
    if prompts is None:
        return None
    responses = completions or [spec.sampling.max_new_tokens] * len(rows)
    samples = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return Lengths(
        measured=len(rows),
        longest_prompt=max(prompts, default=0),
        longest_sample=max(samples, default=0),
        too_long=sum(
            prompt > spec.prompt.max_prompt_tokens or sample > spec.trainer.seq_len
            for prompt, sample in zip(prompts, samples, strict=True)
        ),
    )


def find_length_problems(param: str, lengths: Lengths, num_rows: int) -> Iterable[Problem]:
    """Why a file has nothing to train on."""
    if lengths.too_long == num_rows:
        what = f"none of its {num_rows} rows fits: the longest has {lengths.longest_sample} tokens"
        yield Problem(param, f"{what}; raise prompt.max_prompt_tokens or trainer.seq_len")
