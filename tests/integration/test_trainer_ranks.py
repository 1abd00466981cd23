"""Ranks change nothing but the wall: real processes over gloo, with sharded weights, against a
single one.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import multiprocessing

from services.common.job_spec import parse_spec
from services.trainer.training import lora
from services.trainer.training.policy_model import PolicyModel
from services.trainer.training.ranks import ALONE, Ranks, join
from services.trainer.training.sft import SftExample
from tests.support.numerics import random_samples, tiny_loaded

SPEC = {
    "model": "tiny",
    "method": "pipeline",
    "training_file": "rows.jsonl",
    "validation_file": "rows.jsonl",
    "optim": {"lr": 1e-2},
    # One document per row: five rows, so that neither two nor three ranks get equally many.
    "trainer": {"max_tokens_per_microbatch": 1, "gradient_checkpointing": True},
}
LORA = {"lora": {"rank": 2}}


def _work(ranks: Ranks, directory: Path, spec: dict[str, Any]) -> None:
    """Two supervised steps, a resume from the stored optimizer, a third, a policy step; rank 0
    stores what it sees.
    """
    loaded = tiny_loaded(vocab_size=7, block_size=4)
    if "lora" in spec:
        lora.attach_adapter(loaded, parse_spec(spec).lora, seed=0)  # type: ignore[arg-type]
        loaded.model.to(torch.float64)
    policy_model = PolicyModel(loaded, parse_spec(spec), ranks)
    if ranks.rank > 0:
        policy_model.follow_leader()
        return
    samples = random_samples(loaded, 5)
    examples = [
        SftExample(prompt_ids=s.prompt_ids, token_ids=s.response.token_ids) for s in samples
    ]
    policy_model.begin_stage("sft", None, None)
    metrics = [policy_model.train_sft(examples, step, 1e-2) for step in (1, 2)]
    save_file(dict(policy_model.take_snapshot().moments), directory / "moments.safetensors")
    policy_model.begin_stage("sft", directory / "moments.safetensors", None)
    metrics += [
        policy_model.train_sft(examples, 3, 1e-2),
        {"held_out": policy_model.sft_loss(examples[:1])},
    ]
    policy_model.begin_stage("rl", None, None)
    metrics.append(policy_model.train_rl(samples, 1e-2))
    named = [{str(name): value for name, value in each.items()} for each in metrics]
    torch.save(named, directory / "metrics.pt")
    save_file(
        {name: tensor.contiguous() for name, tensor in policy_model.export_weights().items()},
        directory / "weights",
    )
    ranks.dismiss()


def _rank(rank: int, size: int, directory: Path) -> None:
    torch.set_num_threads(1)
    for name, spec in (("all", SPEC), ("lora", {**SPEC, **LORA})):
        ranks = join(f"file://{directory}/{name}.ranks", rank, size, range(size))
        _work(ranks, directory / name, spec)
        ranks.leave()


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What so many ranks left behind."""
    directory = tmp_path_factory.mktemp("ranks")
    _make_places(directory)
    multiprocessing.spawn(_rank, (request.param, directory), nprocs=request.param)
    return directory


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process left behind."""
    directory = tmp_path_factory.mktemp("single")
    _make_places(directory)
    for name, spec in (("all", SPEC), ("lora", {**SPEC, **LORA})):
        _work(ALONE, directory / name, spec)
    return directory


def _make_places(directory: Path) -> None:
    for name in ("all", "lora"):
        (directory / name).mkdir()


@cache
def _metrics(directory: Path, name: str) -> list[dict[str, float]]:
    loaded: list[dict[str, float]] = torch.load(directory / name / "metrics.pt")
    return loaded


@pytest.mark.parametrize("name", ["all", "lora"])
def test_ranks_change_neither_losses_nor_gradient_norms_nor_statistics(
    several: Path, single: Path, name: str
) -> None:
    for ours, expected in zip(_metrics(several, name), _metrics(single, name), strict=True):
        assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["all", "lora"])
def test_ranks_change_neither_weights_nor_the_state_of_the_optimizer(
    several: Path, single: Path, name: str
) -> None:
    for file in ("weights", "moments.safetensors"):
        ours, expected = load_file(several / name / file), load_file(single / name / file)
        assert ours.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(ours[key], expected[key], rtol=1e-8, atol=1e-10)


def test_rows_are_shared_out_once_each_and_every_rank_makes_equally_many_passes() -> None:
    shares = [Ranks(rank, 3).share_rows("abcd") for rank in range(3)]

    assert shares == [
        [("a", True), ("d", True)],
        [("b", True), ("a", False)],
        [("c", True), ("a", False)],
    ]
    assert Ranks(1, 3).share_rows("") == []
