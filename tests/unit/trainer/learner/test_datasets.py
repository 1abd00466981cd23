"""From rows to token ids: templates, budgets, and what is dropped."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.checkpoint.format import file_sha256
from services.common.data.reading import Reading
from services.common.errors import PlatformError
from services.common.job_spec import JobSpec, PromptSpec, RewardSpec, parse_spec
from services.common.model.loading import LoadedModel
from services.common.trajectory import Int32s
from services.trainer.learner.datasets import (
    DataFile,
    TokenBudget,
    load_examples,
    load_prompts,
    to_token_budget,
)
from services.trainer.learner.spool import SpooledItems
from tests.support.tiny_models import tiny_model
from tests.support.trainer import write_rows

WIDE = TokenBudget(max_prompt_tokens=1000, max_sequence_tokens=1000)


def spec_of(**prompt: str) -> JobSpec:
    return parse_spec({"model": "m", "method": "rl", "training_file": "f", "prompt": prompt})


def text_of(path: Path, **prompt: str) -> str:
    loaded = tiny_model()
    (item,) = load_prompts(DataFile(path), "rl", loaded, spec_of(**prompt), WIDE, 8).items
    return str(loaded.tokenizer.decode(item.prompt_ids.tolist()))


def test_the_template_goes_around_the_last_user_turn_and_the_system_turn_before_all(
    tmp_path: Path,
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1+1", "answer": "2"}])

    text = text_of(rows, template="Q: {prompt} {x}", system="Be brief.")

    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: 1+1 {x}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_prompt_carries_its_row_and_needs_no_reference_answer(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1+1", "tests": [1]}])
    spec = spec_of()
    with pytest.raises(PlatformError, match="row 1: has no reference answer"):
        load_prompts(DataFile(rows), "rl", tiny_model(), spec, WIDE, 8)

    reward = RewardSpec.model_validate({"graders": ["format"]})
    spec = spec.model_copy(update={"reward": reward})
    (item,) = load_prompts(DataFile(rows), "rl", tiny_model(), spec, WIDE, 8).items
    assert (item.reference_answer, item.answer_type) == ("", None)
    messages = [{"role": "user", "content": "1+1"}]
    assert json.loads(item.row) == {"prompt": "1+1", "tests": [1], "messages": messages}


def test_a_rows_own_system_turn_is_kept(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Own."}, {"role": "user", "content": "1+1"}]
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": messages, "answer": "2"}])

    assert "Own." in text_of(rows, system="Other.")
    assert "Other." not in text_of(rows, system="Other.")


@pytest.mark.parametrize(("budget", "kept"), [(0, True), (-1, False)])
def test_a_prompt_must_fit_with_its_response_in_whole_blocks(
    tmp_path: Path, budget: int, kept: bool
) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": "1", "answer": "1"}, {"prompt": "1" * 9, "answer": "1"}],
    )
    length = len(
        load_prompts(DataFile(rows), "rl", tiny_model(), spec_of(), WIDE, 8).items[1].prompt_ids
    )
    whole_blocks = -(-(length + 8) // 4) * 4

    dataset = load_prompts(
        DataFile(rows), "rl", tiny_model(), spec_of(), TokenBudget(1000, whole_blocks + budget), 8
    )

    assert (len(dataset.items), dataset.too_long) == ((2, 0) if kept else (1, 1))


def test_examples_must_fit_with_their_padding(tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": "1", "completion": "1"}, {"prompt": "1", "completion": "2" * 9}],
    )
    first, second = load_examples(DataFile(rows), tiny_model(), PromptSpec(), WIDE).items
    total = len(second.prompt_ids) + len(second.token_ids)

    dataset = load_examples(
        DataFile(rows), tiny_model(), PromptSpec(), TokenBudget(1000, total - 1)
    )

    assert (len(dataset.items), dataset.too_long) == (1, 1)
    assert len(dataset.items[0].token_ids) == len(first.token_ids)


def test_a_file_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1", "answer": "1"}])

    with pytest.raises(PlatformError, match="none of its 1 rows fits") as caught:
        load_prompts(DataFile(rows), "rl", tiny_model(), spec_of(), TokenBudget(1, 1000), 8)
    assert caught.value.code == "dataset_invalid"


def test_the_models_positions_bound_the_sequence() -> None:
    spec = parse_spec(
        {"model": "m", "method": "sft", "training_file": "f", "trainer": {"seq_len": 4096}}
    )

    assert to_token_budget(spec, 2048).max_sequence_tokens == 2048
    assert to_token_budget(spec, 8192).max_sequence_tokens == 4096


def test_every_assistant_turn_is_an_example_with_its_weight(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "4", "weight": 0},
        {"role": "user", "content": "5"},
        {"role": "assistant", "content": "6", "weight": 0.5},
    ]
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": turns}])
    loaded = tiny_model()

    items = load_examples(DataFile(rows), loaded, PromptSpec(template="Q{prompt}"), WIDE).items

    def text(ids: Int32s) -> str:
        return str(loaded.tokenizer.decode(ids.tolist()))

    assert [(text(item.token_ids)[:11], item.weight) for item in items] == [
        ("2<|im_end|>", 1.0),
        ("6<|im_end|>", 0.5),
    ]
    assert text(items[0].prompt_ids) == ("<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n")
    # Earlier turns are those that the model saw, without the template of the last one.
    assert text(items[1].prompt_ids) == (
        "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n3<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\nQ5<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "load",
    [
        lambda file, loaded: load_examples(file, loaded, PromptSpec(), WIDE),
        lambda file, loaded: load_prompts(file, "rl", loaded, spec_of(), WIDE, 8),
    ],
)
def test_a_chat_template_that_raises_names_the_row(
    tmp_path: Path, load: Callable[[DataFile, LoadedModel], object]
) -> None:
    system = {"role": "system", "content": "s"}
    good = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [{"messages": good, "answer": "2"}, {"messages": [system, *good], "answer": "2"}],
    )
    loaded = tiny_model()
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + template
    )

    try:
        with pytest.raises(PlatformError, match=r"row 2: .*System role not supported") as caught:
            load(DataFile(rows), loaded)
    finally:
        loaded.tokenizer.chat_template = template
    assert caught.value.code == "dataset_invalid"


@pytest.mark.parametrize(
    ("completion", "trained"),
    [
        ("<think>\n1+1\n</think>\n2", "1+1\n</think>\n2"),
        ("\n<think>1+1</think>2", "1+1</think>2"),
        ("2", "2"),
        ("2 <think>", "2 <think>"),
    ],
)
def test_a_think_tag_that_the_template_opens_is_not_doubled(
    tmp_path: Path, completion: str, trained: str
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1", "completion": completion}])
    loaded = tiny_model()
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = template + r"{{ '<think>\n' }}"

    try:
        (item,) = load_examples(DataFile(rows), loaded, PromptSpec(), WIDE).items
    finally:
        loaded.tokenizer.chat_template = template

    assert loaded.tokenizer.decode(item.prompt_ids.tolist()).endswith("assistant\n<think>\n")
    text = str(loaded.tokenizer.decode(item.token_ids.tolist()))
    assert text.partition("<|im_end|>")[0] == trained


def test_items_of_a_data_set_are_read_from_a_file() -> None:
    items = SpooledItems(number * 2 for number in range(5))
    assert (len(items), items[1], items[-1], list(items)) == (5, 2, 8, [0, 2, 4, 6, 8])
    assert items[1:3] == (2, 4)
    with pytest.raises(IndexError):
        items[5]
    empty: SpooledItems[int] = SpooledItems(())
    assert not empty


def test_the_digest_of_a_file_is_of_its_rows_that_are_taken(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": str(n), "completion": "1", "n": n} for n in range(4)]
    )
    readings = [Reading(), Reading(filter="n > 1"), Reading(filter="n > 0"), Reading(max_rows=2)]
    digests = {
        load_examples(DataFile(path, reading), tiny_model(), PromptSpec(), WIDE).file_sha256
        for reading in readings
    }
    assert len(digests) == len(readings)
    assert file_sha256(path) in digests
