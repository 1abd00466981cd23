"""Tokens and FLOPs of training rows, counted by hand."""

from pathlib import Path

import pytest
import torch

from services.common.job_spec import TrainerSpec
from services.common.model.attention import LENGTH_BUCKET, row_padding
from services.common.model.loading import load_model
from services.common.model.tiny import make_tiny_model
from services.trainer.training import device_work
from services.trainer.training.device_work import Work, model_flops
from services.trainer.training.policy import Policy
from services.trainer.training.trajectory_rows import rl_rows
from tests.support.numerics import random_samples, tiny_loaded

ROW: dict[str, int] = {"block_size": 4, "mask_token_id": 0, "max_tokens": 1}


def test_the_flops_of_a_row_are_those_of_its_matrices_its_head_and_its_visible_pairs() -> None:
    loaded = tiny_loaded(vocab_size=7, block_size=4)
    (row,) = rl_rows(random_samples(loaded, 1), **ROW)
    config = loaded.model.config
    width = config.head_dim * config.num_attention_heads
    kept = [
        p.numel()
        for name, p in loaded.model.named_parameters()
        if "embed" not in name and "lm_head" not in name
    ]
    pairs = sum(4 * (int(block) + 1) for block in row.index.block)

    expected = 6 * sum(kept) * len(row.token_ids)  # 2 forward, 4 backward
    expected += 6 * config.vocab_size * config.hidden_size * len(row.loss_at)
    expected += (
        12 * config.num_hidden_layers * width * pairs
    )  # two products of 2 · width, three times each

    assert model_flops(loaded, row.index, len(row.loss_at)) == expected


def test_of_a_mixture_only_the_experts_that_a_token_is_sent_to_count(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, seed=0, hidden_size=16, layers=1, heads=2, moe=True)
    loaded = load_model(tmp_path, "float32", "cpu")
    (row,) = rl_rows(random_samples(loaded, 1), **ROW)
    experts = sum(p.numel() for name, p in loaded.model.named_parameters() if ".experts." in name)
    two_of_four = model_flops(loaded, row.index, 0)
    loaded.model.config.num_experts_per_tok = 4

    assert experts > 0
    assert model_flops(loaded, row.index, 0) - two_of_four == 6 * len(row.token_ids) * experts / 2


def test_passes_without_gradient_are_not_counted() -> None:
    loaded = tiny_loaded(vocab_size=7, block_size=4)
    policy = Policy(loaded=loaded, trainer=TrainerSpec())
    (row,) = rl_rows(random_samples(loaded, 1), **ROW)

    with torch.no_grad():
        policy.score(row, 1.0)
    assert policy.work.tokens == 0
    policy.score(row, 1.0)
    assert policy.work.tokens == len(row.token_ids)


def test_the_utilisation_is_what_the_device_could_have_done_and_is_left_out_where_that_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = Work(tokens=90, padding=10, flops=6e12)
    assert done.metrics(2.0) == {"perf/padding_ratio": 0.1}

    monkeypatch.setattr(device_work, "peak_flops", lambda: 30e12)
    assert done.metrics(2.0) == {"perf/padding_ratio": 0.1, "perf/mfu": pytest.approx(0.1)}


def test_tokens_padding_and_flops_add_up_over_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_work, "row_padding", lambda tokens, device: tokens + 1)
    loaded = tiny_loaded(vocab_size=7, block_size=4)
    rows = rl_rows(random_samples(loaded, 2), block_size=4, mask_token_id=6, max_tokens=1)
    done = Work()

    for row in rows:
        done.add(loaded, row)

    tokens = [len(row.token_ids) for row in rows]
    assert len(tokens) == 2
    assert (done.tokens, done.padding) == (sum(tokens), sum(tokens) + 2)
    assert done.flops == sum(model_flops(loaded, row.index, len(row.loss_at)) for row in rows)


@pytest.mark.parametrize(
    ("has_gpu", "name", "flops"),
    [
        (True, "NVIDIA H200", 989e12),
        (True, "NVIDIA A100-SXM4-80GB", 312e12),
        (True, "NVIDIA GeForce RTX 4090", None),
        (False, "NVIDIA H200", None),
    ],
)
def test_the_peak_is_known_for_the_devices_of_the_table(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, name: str, flops: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)

    assert device_work.peak_flops() == flops


def test_rows_are_padded_for_flex_attention_only() -> None:
    assert row_padding(LENGTH_BUCKET + 1, torch.device("cpu")) == 0
    assert row_padding(LENGTH_BUCKET + 1, torch.device("cuda")) == LENGTH_BUCKET - 1
    assert row_padding(LENGTH_BUCKET, torch.device("cuda")) == 0
