"""AdamW and its learning rate as a function of the step: no state, so resuming restores it by
itself.
"""

import math
from typing import Any

import torch

from services.common.job_spec import OptimSpec


def make_optimizer(model: torch.nn.Module, config: OptimSpec) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; the learning rate is set before every step.

    Norms and biases, the parameters of one dimension, do not decay: pulled towards 0 they would
    scale their layers down instead of regularising them.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in trainable if one.dim() > 1]},
        {"params": [one for one in trainable if one.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, foreach=True
    )


def learning_rate(config: OptimSpec, step: int, num_steps: int) -> float:
    """Learning rate of step 1 … num_steps of a stage.

    Linear warm-up from lr / warmup_steps at step 1 to lr, then the scheduler's decay, which would
    reach 0 one step after the last: neither the first step nor the last is wasted. Raises
    ValueError outside that range.
    """
    if not 1 <= step <= num_steps:
        raise ValueError(f"step {step} is outside the stage's steps 1 … {num_steps}")
    if step < config.warmup_steps:
        return config.lr * step / config.warmup_steps
    # Anchored at the last warm-up step, which has the full rate.
    peak = min(max(config.warmup_steps, 1), num_steps)
    progress = (step - peak) / (num_steps - peak + 1)
    decay = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
    }
    return config.lr * decay[config.scheduler]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
