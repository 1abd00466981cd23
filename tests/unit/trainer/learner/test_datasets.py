"""From rows to token ids: templates, budgets, and what is dropped."""

import json
from pathlib import Path

import pytest

from services.common.errors import PlatformError
from services.common.job_spec import JobSpec, PromptSpec, RewardSpec, parse_spec
from services.trainer.learner.datasets import (
    TokenBudget,
    load_examples,
    load_prompts,
    to_token_budget,
)
from tests.support.tiny_models import tiny_model
from tests.support.trainer import write_rows

WIDE = TokenBudget(max_prompt_tokens=1000, max_sequence_tokens=1000)


def spec_of(**prompt: str) -> JobSpec:
    return parse_spec({"model": "m", "method": "rl", "training_file": "f", "prompt": prompt})


def text_of(path: Path, **prompt: str) -> str:
    loaded = tiny_model()
    (item,) = load_prompts(path, "rl", loaded, spec_of(**prompt), WIDE, 8).items
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
        load_prompts(rows, "rl", tiny_model(), spec, WIDE, 8)

    reward = RewardSpec.model_validate({"graders": ["format"]})
    spec = spec.model_copy(update={"reward": reward})
    (item,) = load_prompts(rows, "rl", tiny_model(), spec, WIDE, 8).items
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
    length = len(load_prompts(rows, "rl", tiny_model(), spec_of(), WIDE, 8).items[1].prompt_ids)
    whole_blocks = -(-(length + 8) // 4) * 4

    dataset = load_prompts(
        rows, "rl", tiny_model(), spec_of(), TokenBudget(1000, whole_blocks + budget), 8
    )

    assert (len(dataset.items), dataset.too_long) == ((2, 0) if kept else (1, 1))


def test_examples_must_fit_with_their_padding(tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": "1", "completion": "1"}, {"prompt": "1", "completion": "2" * 9}],
    )
    first, second = load_examples(rows, tiny_model(), PromptSpec(), WIDE).items
    total = len(second.prompt_ids) + len(second.token_ids)

    dataset = load_examples(rows, tiny_model(), PromptSpec(), TokenBudget(1000, total - 1))

    assert (len(dataset.items), dataset.too_long) == (1, 1)
    assert len(dataset.items[0].token_ids) == len(first.token_ids)


def test_a_file_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1", "answer": "1"}])

    with pytest.raises(PlatformError, match="none of its 1 rows fits") as caught:
        load_prompts(rows, "rl", tiny_model(), spec_of(), TokenBudget(1, 1000), 8)
    assert caught.value.code == "dataset_invalid"


def test_the_models_positions_bound_the_sequence() -> None:
    spec = parse_spec(
        {"model": "m", "method": "sft", "training_file": "f", "trainer": {"seq_len": 4096}}
    )

    assert to_token_budget(spec, 2048).max_sequence_tokens == 2048
    assert to_token_budget(spec, 8192).max_sequence_tokens == 4096
