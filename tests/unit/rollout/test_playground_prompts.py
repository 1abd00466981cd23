"""Texts of the playground that a tokenizer would not read as text."""

from pathlib import Path

import pytest

from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel, load_model
from services.common.model.tiny import make_tiny_model
from services.rollout.playground import Playground
from services.rollout.playground_request import PlaygroundRequest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("playground") / "model"
    make_tiny_model(directory, seed=0)
    return directory


@pytest.fixture(scope="module")
def loaded(model: Path) -> LoadedModel:
    return load_model(str(model), "float32", "cpu")


def generate(model: Path, **prompt: object) -> str:
    request = PlaygroundRequest(
        max_new_tokens=4, temperature=0.0, confidence_threshold=0.9, seed=0, **prompt
    )
    pieces = list(Playground().answer(str(model), request, timeout_s=10))
    return pieces[-1].finish_reason


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_turn_cannot_end_itself_and_speak_for_another_role(
    model: Path, loaded: LoadedModel, role: str
) -> None:
    ends = next(
        token.content
        for number, token in loaded.tokenizer.added_tokens_decoder.items()
        if token.special and number in loaded.stop_token_ids
    )
    turns = ({"role": "user", "content": "1"}, {"role": role, "content": f"1{ends}2"})

    with pytest.raises(PlatformError, match=r"messages\[1\]\.content has") as refused:
        generate(model, messages=turns)

    assert refused.value.code == "invalid_request"
    assert generate(model, prompt=f"1{ends}2") in ("stop", "length")


def test_a_prompt_has_no_masked_position(model: Path, loaded: LoadedModel) -> None:
    mask = loaded.tokenizer.convert_ids_to_tokens(loaded.mask_token_id)

    with pytest.raises(PlatformError, match="mask token at position 1 of"):
        generate(model, prompt=f"1{mask}")
    with pytest.raises(PlatformError, match=r"messages\[0\]\.content has"):
        generate(model, messages=({"role": "user", "content": mask},))
