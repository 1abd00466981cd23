"""What a training pass holds beside weights and optimizer state: an estimate from the shape of a
model.

A layer keeps for its backward pass, per token: inputs and results of the norms (6 times the hidden
width), queries before and after their norm, as attention's operand and its result (5 times the
width of all query heads), keys and values (4 times that of all key-value heads), and gate, up,
activation and product of the feed-forward network (4 times its width, for each expert that a token
is sent to). Computing takes about two layers more. On a CPU that is within 7 % of the peak that
`benchmarks/rows.py` measures for two and one tokens per step, and 30 % above it for four.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from services.common.job_spec import JobSpec

_BYTES: Final = {"fp32": 4, "bf16": 2}
_LAYERS_AT_WORK: Final = 2
_LOGIT_COPIES: Final = 3
"""Logits, log-probabilities, and a gradient, in fp32."""
_LOGITS_PER_CHUNK: Final = 2**25
"""services.trainer.training.policy holds no more at once."""
_ROW_PER_SAMPLE: Final = {"sft": 2, "rl": 3}
"""Row tokens per token of a sample: the clean one, and the states; of reinforcement at two tokens
per step.
"""


@dataclass(frozen=True)
class Shape:
    """Of a decoder."""

    layers: int
    hidden: int
    inner: int
    """Of the feed-forward network; of experts, those that a token is sent to together."""
    query: int
    """Width of all query heads."""
    key_value: int
    """Width of all key-value heads."""
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """By a model's config.json; None where it does not say."""
        try:
            heads = config["num_attention_heads"]
            width = config.get("head_dim") or config["hidden_size"] // heads
            experts = config.get("num_experts_per_tok", 1)
            return cls(
                layers=config["num_hidden_layers"],
                hidden=config["hidden_size"],
                inner=experts
                * config[
                    "moe_intermediate_size"
                    if "num_experts_per_tok" in config
                    else "intermediate_size"
                ],
                query=heads * width,
                key_value=config.get("num_key_value_heads", heads) * width,
                vocabulary=config["vocab_size"],
            )
        except (KeyError, TypeError):
            return None


def row_tokens(spec: JobSpec, longest_sample: int) -> int:
    """Tokens of the largest micro-batch, when every sample is as long as the longest."""
    samples = {
        "sft": spec.sft.batch_size,
        "rl": -(-spec.rl.prompts_per_step // spec.rl.minibatches) * spec.rl.num_generations,
    }
    alone = {
        stage: longest_sample * _ROW_PER_SAMPLE[stage]
        for stage in spec.method.stages
        if stage in samples
    }
    together = {
        stage: min(samples[stage] * one, spec.trainer.max_tokens_per_microbatch)
        for stage, one in alone.items()
    }
    return max((*alone.values(), *together.values()), default=0)


def activation_bytes(shape: Shape, spec: JobSpec, tokens: int) -> int:
    """Of a forward and backward pass over a row of so many tokens."""
    layer = 6 * shape.hidden + 5 * shape.query + 4 * shape.key_value + 4 * shape.inner
    kept = shape.layers * (shape.hidden if spec.trainer.gradient_checkpointing else layer)
    working = (_LAYERS_AT_WORK + spec.trainer.gradient_checkpointing) * layer
    logits = min(tokens * shape.vocabulary, _LOGITS_PER_CHUNK) * _LOGIT_COPIES * 4
    return tokens * (kept + working) * _BYTES[spec.trainer.precision] + logits
