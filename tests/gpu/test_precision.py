"""What only a CUDA device shows: FlexAttention with its backward pass, and bf16 passes over fp32
weights.
"""

from pathlib import Path

import pytest
import torch

from services.common.job_spec import TrainerSpec
from services.common.model.loading import LoadedModel, load_model
from services.common.model.tiny import make_tiny_model
from services.trainer.training.policy import Policy
from services.trainer.training.trajectory_rows import rl_rows
from tests.support.numerics import random_samples

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"
    ),
]


def _scored(directory: Path, device: str, precision: str) -> tuple[torch.Tensor, LoadedModel]:
    """Log-probs of a row, their sum's gradient in the model."""
    make_tiny_model(directory, seed=0, hidden_size=128, layers=2, heads=4)
    loaded = load_model(directory, "float32", device)
    (row,) = rl_rows(
        random_samples(loaded, 6),
        block_size=4,
        mask_token_id=loaded.mask_token_id,
        max_tokens=10**6,
    )
    policy = Policy(loaded=loaded, trainer=TrainerSpec.model_validate({"precision": precision}))
    logprobs, _ = policy.score(row, 1.0)
    logprobs.sum().backward()
    return logprobs.detach().cpu(), loaded


def test_flex_attention_gives_the_log_probs_of_the_cpu(tmp_path: Path) -> None:
    on_gpu, _ = _scored(tmp_path / "a", "cuda", "fp32")
    on_cpu, _ = _scored(tmp_path / "b", "cpu", "fp32")

    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)


def test_bf16_passes_keep_weights_gradients_and_log_probs_in_fp32(tmp_path: Path) -> None:
    full, _ = _scored(tmp_path / "a", "cuda", "fp32")
    half, loaded = _scored(tmp_path / "b", "cuda", "bf16")

    assert half.dtype == torch.float32
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in loaded.model.parameters() if p.grad is not None} == {
        torch.float32
    }
    assert (half - full).abs().max() < 0.3
