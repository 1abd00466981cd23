"""Hidden states of packed rows and the log-probabilities that rollout and training share.

Legend: T tokens of a row, N positions, H hidden size, V rows of the embedding.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from services.common.model.attention import Attend, packed_attention
from services.common.model.index import RowIndex
from services.common.model.loading import LoadedModel


def hidden_states(model: PreTrainedModel, token_ids: Tensor, index: RowIndex) -> Tensor:
    """Final hidden states [T, H] of a packed row of token ids [T]; documents do not see each other."""
    return attended_states(model, token_ids[None], index.position[None], packed_attention(index))[0]


def attended_states(
    model: PreTrainedModel, token_ids: Tensor, positions: Tensor, attend: Attend
) -> Tensor:
    """Final hidden states [N, T, H] of token ids [N, T] at absolute positions [N, T]."""
    output = model.base_model(
        input_ids=token_ids, position_ids=positions, use_cache=False, attend=attend
    )
    states: Tensor = output.last_hidden_state
    return states


def token_logits(loaded: LoadedModel, hidden: Tensor) -> Tensor:
    """Logits [N, V] of hidden states [N, H], at least fp32; -inf for ids that are never sampled.

    Unlike in an autoregressive model there is no shift: the state at position i predicts token i.
    """
    logits: Tensor = loaded.model.get_output_embeddings()(hidden)
    # bf16 has 8 bits of precision, too few for log-probabilities that are compared and subtracted.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Granite divides its logits, in the head of the causal model that is not called here.
    logits = logits / getattr(loaded.model.config, "logits_scaling", 1.0)
    return logits.masked_fill(~loaded.sampleable, -torch.inf)


def token_logprobs(loaded: LoadedModel, hidden: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [N, V] of hidden states [N, H] at a temperature > 0, at least fp32."""
    return torch.log_softmax(token_logits(loaded, hidden) / temperature, dim=-1)
