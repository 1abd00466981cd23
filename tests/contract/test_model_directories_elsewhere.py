"""Model directories that the platform writes load in transformers without the platform, and decode
there to the tokens of its own engine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from services.common.diffusion.config import DecodingConfig
from services.common.model.attention import IMPLEMENTATION
from services.common.model.loading import LoadedModel, assemble, load_model, save_model
from services.common.model.sdar import FAMILIES
from services.common.model.tiny import character_tokenizer
from services.rollout.engines.torch_engine import TorchEngine
from tests.support.families import FAMILY_CONFIGS
from tests.support.published import write_checkpoint
from tests.support.tiny_models import decode, decoding, request

BUDGET: Final = 18
"""Tokens; not whole blocks."""
PROMPTS: Final = ([1], [5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15], list(range(20, 33)))
"""One shorter than a block, one that ends with a block, and two that end within one."""
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "static": {"unmasking_strategy": "low_confidence_static", "denoising_steps": 2},
    "dynamic": {"unmasking_strategy": "low_confidence_dynamic", "confidence_threshold": 0.03},
    "sequential": {"unmasking_strategy": "sequential", "denoising_steps": 4},
    "entropy": {"unmasking_strategy": "entropy_bounded", "entropy_bound": 8.0},
}
SCRIPT: Final = Path(__file__).parents[1] / "support" / "decode_with_transformers.py"


def _make_model(config: PreTrainedConfig) -> LoadedModel:
    """A model whose tokens depend on all that they see."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION).eval()
    tokenizer = character_tokenizer()
    return assemble(model, tokenizer, 4, tokenizer.mask_token_id)


def _run_elsewhere(directories: dict[str, Path], cache: Path) -> dict[str, Any]:
    """Load and decode in a process that cannot import the platform."""
    task = {
        "directories": {name: str(path) for name, path in directories.items()},
        "prompts": PROMPTS,
        "settings": SETTINGS,
        "budget": BUDGET,
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=cache,
        env={**os.environ, "HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _decode_here(loaded: LoadedModel, settings: dict[str, Any]) -> list[list[int]]:
    """Greedy tokens of the platform's engine, to the first end token or the budget."""
    options = {"denoising_steps": 4, "confidence_threshold": 0.9, "entropy_bound": 0.5, **settings}
    config = DecodingConfig(
        block_size=4, selection="max", mask_token_id=loaded.mask_token_id, temperature=0, top_p=1,
        top_k=0, max_new_tokens=BUDGET, stop_token_ids=loaded.stop_token_ids, **options,
    )  # fmt: skip
    engine = TorchEngine(loaded, max_sequence_tokens=64)
    requests = [request(list(ids), config, ledger=row) for row, ids in enumerate(PROMPTS)]
    finished = decode(engine, requests)
    return [
        _until_end(finished[f"{row}-0"].token_ids.tolist()[:BUDGET], loaded.stop_token_ids)
        for row in range(len(PROMPTS))
    ]


def _until_end(ids: list[int], stops: tuple[int, ...]) -> list[int]:
    ends = [place for place, token in enumerate(ids) if token in stops]
    return ids[: ends[0] + 1] if ends else ids


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, LoadedModel]]:
    root = tmp_path_factory.mktemp("families")
    models = {family: _make_model(FAMILY_CONFIGS[family]) for family in FAMILIES}
    for family, loaded in models.items():
        save_model(loaded, root / family)
    return {family: (root / family, loaded) for family, loaded in models.items()}


@pytest.fixture(scope="module")
def elsewhere(
    written: dict[str, tuple[Path, LoadedModel]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    directories = {family: path for family, (path, _) in written.items()}
    return _run_elsewhere(directories, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_decodes_the_tokens_of_the_engine(
    written: dict[str, tuple[Path, LoadedModel]],
    elsewhere: dict[str, Any],
    family: str,
    setting: str,
) -> None:
    loaded = written[family][1]
    expected = _decode_here(loaded, SETTINGS[setting])
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)  # the prompts make a difference

    found = elsewhere[family][setting]

    assert [_until_end(ids, loaded.stop_token_ids) for ids in found["alone"]] == expected
    assert [_until_end(ids, loaded.stop_token_ids) for ids in found["batch"]] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_published_decoding_scripts_can_call_it(
    written: dict[str, tuple[Path, LoadedModel]], elsewhere: dict[str, Any], family: str
) -> None:
    """They pass masks per block and `store_kv`, and commit tokens themselves."""
    stops = written[family][1].stop_token_ids

    by_hand = [_until_end(ids, stops) for ids in elsewhere[family]["by hand"]]

    alone = [_until_end(ids, stops) for ids in elsewhere[family]["sequential"]["alone"]]
    assert by_hand == alone


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_stops_where_a_criterion_says_and_refuses_what_it_cannot_do(
    elsewhere: dict[str, Any], family: str
) -> None:
    assert elsewhere[family]["stopped"] <= 9
    assert elsewhere[family]["refused"] == [
        "Block-diffusion generation does not support num_beams.",
        "Unknown unmasking_strategy 'sideways'; choose one of low_confidence_static, "
        "low_confidence_dynamic, sequential, entropy_bounded.",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_not_shifted(elsewhere: dict[str, Any], family: str) -> None:
    loss, mean = elsewhere[family]["losses"]

    assert loss == pytest.approx(mean, rel=1e-5)


def test_a_published_checkpoint_keeps_the_code_it_came_with(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_checkpoint("SDAR-8B-Chat", source)
    code = {file.name: file.read_bytes() for file in source.glob("*.py")}
    assert code.keys() == {"configuration_sdar.py", "modeling_sdar.py"}

    save_model(load_model(source, "float32", "cpu"), out)

    assert {file.name: file.read_bytes() for file in out.glob("*.py")} == code
    here, there = (json.loads((each / "config.json").read_text()) for each in (out, source))
    assert here["auto_map"] == there["auto_map"]


def test_a_checkpoint_without_the_code_that_it_names_gets_the_platforms(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_checkpoint("SDAR-8B-Chat", source)
    (source / "modeling_sdar.py").unlink()

    save_model(load_model(source, "float32", "cpu"), out)

    assert json.loads((out / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_block_diffusion.SDARConfig",
        "AutoModelForCausalLM": "modeling_block_diffusion.SDARForCausalLM",
    }
    assert (out / "modeling_block_diffusion.py").is_file()


def test_generation_config_names_the_end_tokens_and_the_decoding(tmp_path: Path) -> None:
    loaded = _make_model(FAMILY_CONFIGS["sdar"])
    end_of_turn = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")

    save_model(loaded, tmp_path, decoding=decoding(temperature=0.5, max_new_tokens=77))

    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["eos_token_id"][0] == end_of_turn
    assert set(written["eos_token_id"]) == set(loaded.stop_token_ids)
    stated = ("do_sample", "temperature", "max_new_tokens", "unmasking_strategy", "denoising_steps",
              "confidence_threshold", "selection")  # fmt: skip
    assert [written[key] for key in stated] == [
        True, 0.5, 77, "low_confidence_dynamic", 4, 0.1, "max"
    ]  # fmt: skip
    assert load_model(tmp_path, "float32", "cpu").stop_token_ids == loaded.stop_token_ids
