"""Work of training on a device: tokens, padding and model FLOPs of packed rows, and the share of the
device's peak.

FLOPs are those that the model needs, whatever is recomputed: a multiplication and an addition per
parameter and token forward, twice as many backward (the count of PaLM, arXiv 2204.02311, appendix
B), the head at loss positions only, and attention over the pairs of tokens that see each other.
"""

from dataclasses import dataclass
from typing import Final

import torch
from transformers import PreTrainedModel

from services.common.job_metrics import JobMetric
from services.common.model.attention import row_padding
from services.common.model.index import RowIndex
from services.common.model.loading import LoadedModel
from services.trainer.training.trajectory_rows import PackedRow

PEAK_FLOPS: Final = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 per second, by a part of the device's name."""


@dataclass
class Work:
    """Work of one process, added up over rows."""

    tokens: int = 0
    padding: int = 0
    """Positions that attention computes in addition to the tokens."""
    flops: float = 0.0

    def add(self, loaded: LoadedModel, row: PackedRow) -> None:
        """Include the forward and backward pass of a row."""
        self.tokens += len(row.token_ids)
        self.padding += row_padding(len(row.token_ids), loaded.model.device)
        self.flops += model_flops(loaded, row.index, len(row.loss_at))

    def metrics(self, seconds: float) -> dict[str, float]:
        """Metrics by their public names; the utilisation is left out where the device's peak is not known."""
        peak = peak_flops()
        return {
            JobMetric.PERF_PADDING_RATIO: self.padding / (self.tokens + self.padding),
            **({} if peak is None else {JobMetric.PERF_MFU: self.flops / seconds / peak}),
        }


def model_flops(loaded: LoadedModel, index: RowIndex, num_losses: int) -> float:
    """FLOPs of a forward and backward pass over one row."""
    body, head = _parameters_used(loaded.model)
    config = loaded.model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # QK^T and the weighted sum of V: 2 x 2 FLOPs per pair and channel forward, twice that backward.
    per_pair = 12 * config.num_hidden_layers * config.num_attention_heads * width
    pairs = int(
        (loaded.block_size * (index.block + 1)).sum()
    )  # a token sees its own block and every earlier clean one
    return float(6 * (body * len(index) + head * num_losses) + per_pair * pairs)


def peak_flops() -> float | None:
    """Peak FLOPs per second of this process's device; None on a CPU, or for a device that is not in the table."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def _parameters_used(model: PreTrainedModel) -> tuple[float, int]:
    """Parameters that a token goes through, of its experts those it is sent to; and those of the
    head.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    config = model.config
    share = getattr(config, "num_experts_per_tok", 1) / getattr(config, "num_experts", 1)
    body = sum(
        parameter.numel() * (share if ".experts." in name else 1.0)
        for name, parameter in model.named_parameters()
        if parameter is not embedding and parameter is not head
    )
    return body, head.numel()
