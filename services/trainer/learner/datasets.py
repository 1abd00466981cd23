"""Rows of the job's files as token ids; what does not fit is dropped and counted, never cut."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np

from services.common.answers.answer_types import AnswerType
from services.common.checkpoint.format import file_sha256
from services.common.data.reading import AS_IT_IS, Reading
from services.common.data.records import list_shards
from services.common.data.rows import MAX_PROBLEMS_SHOWN, Needs, Row, read_rows
from services.common.data.special_tokens import SpecialTokens, find_special_token
from services.common.data.turns import messages_of
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.grader_spec import required_fields, row_checks
from services.common.job_spec import JobSpec, PromptSpec
from services.common.model.loading import LoadedModel
from services.common.model.prompts import encode_prompt
from services.common.trajectory import Int32s
from services.trainer.learner.spool import SpooledItems
from services.trainer.training.sft import SftExample, encode_example, encode_trace

_EXCERPT_CHARS: Final = 80


@dataclass(frozen=True)
class DataFile:
    """A file of the job, and how it is read."""

    path: Path
    reading: Reading = AS_IT_IS


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt ready to be issued."""

    prompt_ids: Int32s
    """[P]"""
    reference_answer: str
    """Empty when the row has none."""
    answer_type: AnswerType | None
    row: str
    """JSON object of the row, as graders see it."""
    excerpt: str = ""
    """Beginning of the last user turn."""


Item = TypeVar("Item", EncodedPrompt, SftExample)


@dataclass(frozen=True)
class Dataset(Generic[Item]):
    """Encoded rows of a stage's file, or of its mixture."""

    items: Sequence[Item]
    too_long: int
    """Rows left out because they exceed prompt.max_prompt_tokens, trainer.seq_len or the model's
    positions.
    """
    file_sha256: str
    """A resumed ledger is only valid for the same rows."""
    mixture: tuple[tuple[int, float], ...] = ()
    """(rows, weight) of each file, when there are several."""


@dataclass(frozen=True)
class TokenBudget:
    """Largest prompt, and largest prompt and response together, in tokens."""

    max_prompt_tokens: int
    max_sequence_tokens: int
    """Prompt and response together."""


def to_token_budget(spec: JobSpec, max_positions: int) -> TokenBudget:
    """Return the spec's budgets, limited to the positions of the model."""
    return TokenBudget(spec.prompt.max_prompt_tokens, min(spec.trainer.seq_len, max_positions))


def load_examples(
    file: DataFile,
    loaded: LoadedModel,
    prompt: PromptSpec,
    limits: TokenBudget,
    *,
    trace: bool = False,
) -> Dataset[SftExample]:
    """Load examples for supervised fine-tuning, one for each assistant turn that is trained; raises
    `dataset_invalid` when none can be used.
    """
    return _make_dataset(
        file,
        _encode_examples(file, "sft", loaded, prompt, trace),
        lambda example: _example_fits(example, limits),
        limits,
    )


def load_held_out(
    file: DataFile,
    needs: Needs,
    loaded: LoadedModel,
    prompt: PromptSpec,
    limits: TokenBudget,
    *,
    trace: bool = False,
) -> Sequence[SftExample]:
    """Load the examples of a validation file that fit; may be none."""
    examples = _encode_examples(file, needs, loaded, prompt, trace)
    return SpooledItems(example for example in examples if _example_fits(example, limits))


def load_prompts(
    file: DataFile,
    needs: Needs,
    loaded: LoadedModel,
    spec: JobSpec,
    limits: TokenBudget,
    max_new_tokens: int,
) -> Dataset[EncodedPrompt]:
    """Prompts with all that the job's graders read, for rollouts; raises `dataset_invalid` when none
    can be used.
    """
    graders = spec.reward.graders
    rows = read_rows(
        file.path, needs, required_fields(graders), row_checks(graders), reading=file.reading
    )
    special = loaded.special_tokens

    def encode(row: Row) -> list[EncodedPrompt]:
        _refuse_special_tokens(row, special, completions=False, trace=False)
        return [_encode_prompt(row, loaded, spec.prompt)]

    return _make_dataset(
        file,
        _encode_rows(file, rows, encode),
        lambda item: _prompt_fits(item, limits, max_new_tokens, loaded.block_size),
        limits,
    )


def mix_datasets(parts: Sequence[tuple[Dataset[Item], float]]) -> Dataset[Item]:
    """Combine files and their weights into one data set, in the order given; a single file is
    returned as it is.
    """
    datasets = [dataset for dataset, _ in parts]
    if len(datasets) == 1:
        return datasets[0]
    # One digest over all files in order: a resumed ledger numbers rows through all of them.
    digests = "".join(dataset.file_sha256 for dataset in datasets)
    return Dataset(
        items=SpooledItems(item for dataset in datasets for item in dataset.items),
        too_long=sum(dataset.too_long for dataset in datasets),
        file_sha256=hashlib.sha256(digests.encode()).hexdigest(),
        mixture=tuple((len(dataset.items), weight) for dataset, weight in parts),
    )


def _encode_examples(
    file: DataFile, needs: Needs, loaded: LoadedModel, prompt: PromptSpec, trace: bool
) -> Iterator[SftExample]:
    special = loaded.special_tokens

    def encode(row: Row) -> list[SftExample]:
        if not row.targets:
            return []  # of a validation file
        _refuse_special_tokens(row, special, completions=True, trace=trace)
        if trace:
            tokens, steps = (_read_recorded(row, name) for name in ("token_ids", "unmask_step"))
            return [encode_trace(loaded, messages_of(row.messages, prompt), tokens, steps)]
        return [
            encode_example(loaded, messages_of(target.messages, prompt), target.text, target.weight)
            for target in row.targets
        ]

    return _encode_rows(file, read_rows(file.path, needs, reading=file.reading), encode)


def _encode_rows(
    file: DataFile, rows: Iterable[Row], encode: Callable[[Row], list[Item]]
) -> Iterator[Item]:
    """Yield the encoded rows; raises ProblemsError after the last one if any cannot be encoded."""
    problems: list[Problem] = []
    num_problems = 0
    for row in rows:
        try:
            yield from encode(row)
        except ValueError as error:
            num_problems += 1
            problems += [Problem(row.place, str(error))] * (len(problems) < MAX_PROBLEMS_SHOWN)
    if problems:
        what = f"The data file {file.path} cannot be used"
        raise ProblemsError("dataset_invalid", what, problems, total=num_problems)


def _refuse_special_tokens(
    row: Row, special: SpecialTokens, *, completions: bool, trace: bool
) -> None:
    """Raise ValueError. Checked at submission too; a file on the server may have changed since."""
    reason = find_special_token(row, special, completions=completions, trace=trace)
    if reason is not None:
        raise ValueError(reason)


def _read_recorded(row: Row, name: str) -> list[int]:
    """A list of integers that a rollout recorded."""
    values = row.metadata.get(name)
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise PlatformError(
            "dataset_invalid",
            f"Cannot follow the recorded order of {row.place}: its {name} is {str(values)[:80]}; a list of "
            "integers is needed for sft.noise = 'trace'.",
            hint="Export trajectories with their token_ids and unmask_step, or choose another noise.",
            param="sft.noise",
        )
    return values


def _encode_prompt(row: Row, loaded: LoadedModel, prompt: PromptSpec) -> EncodedPrompt:
    ids = encode_prompt(loaded.tokenizer, messages_of(row.messages, prompt))
    return EncodedPrompt(
        prompt_ids=np.array(ids, dtype=np.int32),
        reference_answer=row.answer or "",
        answer_type=row.answer_type,
        row=json.dumps(row.item, ensure_ascii=False, separators=(",", ":")),
        excerpt=row.messages[-1].content[:_EXCERPT_CHARS],
    )


def _example_fits(example: SftExample, limits: TokenBudget) -> bool:
    prompt, answer = len(example.prompt_ids), len(example.token_ids)
    return prompt <= limits.max_prompt_tokens and prompt + answer <= limits.max_sequence_tokens


def _prompt_fits(
    item: EncodedPrompt, limits: TokenBudget, max_new_tokens: int, block_size: int
) -> bool:
    prompt = len(item.prompt_ids)
    # The engine fills whole blocks, so the last one may reach beyond max_new_tokens.
    whole_blocks = -(-(prompt + max_new_tokens) // block_size) * block_size
    return prompt <= limits.max_prompt_tokens and whole_blocks <= limits.max_sequence_tokens


def _make_dataset(
    file: DataFile, encoded: Iterable[Item], fits: Callable[[Item], bool], limits: TokenBudget
) -> Dataset[Item]:
    num_encoded = 0

    def keep_fitting() -> Iterator[Item]:
        nonlocal num_encoded
        for item in encoded:
            num_encoded += 1
            if fits(item):
                yield item

    kept = SpooledItems(keep_fitting())
    if not kept:
        raise PlatformError(
            "dataset_invalid",
            f"Cannot use {file.path}: none of its {num_encoded} rows fits into {limits.max_prompt_tokens} "
            f"prompt tokens and {limits.max_sequence_tokens} tokens of prompt and response.",
            hint="Raise prompt.max_prompt_tokens or trainer.seq_len, or lower sampling.max_new_tokens.",
        )
    return Dataset(kept, num_encoded - len(kept), _hash_file(file))


def _hash_file(file: DataFile) -> str:
    """Return a digest of the content of all shards, and of which rows are taken."""
    digests = [file_sha256(shard) for shard in list_shards(file.path)]
    if len(digests) == 1 and file.reading == AS_IT_IS:
        return digests[0]
    return hashlib.sha256(f"{digests} {file.reading}".encode()).hexdigest()
