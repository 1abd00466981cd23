"""Block-diffusion language models for transformers with trust_remote_code.

    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt",
                                           return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=256)

The architectures are those of transformers with another attention mask: a token sees all tokens of
its own block of `config.block_size` positions and of all earlier blocks. The logits at position i
predict token i (there is no shift), so they are meaningful where the input holds the mask token;
likelihoods of autoregressive evaluation do not apply.

Decoding (SDAR, arXiv 2510.06303): a block starts as mask tokens. Each denoising step samples a
candidate per masked position and commits some of them, by `unmasking_strategy`:

- low_confidence_static: the block_size // denoising_steps most confident ones;
- low_confidence_dynamic: all with a confidence of at least `confidence_threshold` (Fast-dLLM, arXiv
  2505.22618), and always the most confident one;
- sequential: the leftmost block_size // denoising_steps;
- entropy_bounded: the longest prefix by ascending entropy whose sum stays within `entropy_bound`
  (EB-Sampler, arXiv 2505.24857), and always the position with the least entropy.

Legend: N rows, T tokens of the input, K keys (cached tokens and those of the input), B block length,
V vocabulary.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    DynamicCache,
    GraniteForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    Olmo2ForCausalLM,
    Phi3ForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    Qwen3MoeForCausalLM,
)

from .configuration_block_diffusion import (
    BlockDiffusionGraniteConfig,
    BlockDiffusionLlamaConfig,
    BlockDiffusionMistralConfig,
    BlockDiffusionOlmo2Config,
    BlockDiffusionPhi3Config,
    BlockDiffusionQwen2Config,
    BlockDiffusionQwen3Config,
    BlockDiffusionQwen3MoeConfig,
    SDARConfig,
    SDARMoeConfig,
)

try:  # transformers 5 fuses experts in memory; files have one tensor per expert.
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )

    register_checkpoint_conversion_mapping(
        "sdar_moe", get_checkpoint_conversion_mapping("qwen3_moe"), overwrite=True
    )
except ImportError:
    pass

DECODING_DEFAULTS: dict[str, Any] = {
    "unmasking_strategy": "low_confidence_dynamic",
    "denoising_steps": None,  # None commits one token per step
    "confidence_threshold": 0.9,
    "entropy_bound": 0.5,
    "selection": "max",  # confidence: "max" of the distribution, or that of the "sampled" candidate
}
DEFAULT_NEW_TOKENS = 512
NEUTRAL_OPTIONS: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": None,
    "min_p": None,
    "typical_p": 1.0,
    "penalty_alpha": None,
}
"""Options of autoregressive generation that have no effect at these values; others are refused."""


@dataclass
class Decoding:
    """Options of generate."""

    unmasking_strategy: str
    tokens_per_step: int
    confidence_threshold: float
    entropy_bound: float
    selection: str
    temperature: float
    """0 is greedy."""
    top_k: int
    top_p: float
    max_new_tokens: int
    stop_ids: list[int]
    pad_id: int


class BlockDiffusionMixin:
    """Forward with the mask of block diffusion, and generation by denoising block after block."""

    config: Any
    dtype: Any
    generation_config: Any
    __call__: Any
    _supports_flash_attn = False  # it takes no mask
    _supports_flash_attn_2 = False
    _supports_flex_attn = False

    def forward(  # noqa: PLR0913 - the signature of transformers
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        store_kv: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Logits [N, T, V] of token ids [N, T].

        `attention_mask` is None, [N, K] with 0 for padding, [N, T, K] with 0 where a query does not
        see a key, or an additive mask [N, 1, T, K]; the last two replace the mask of block diffusion.
        `labels` [N, T] give the mean cross-entropy at positions other than -100, unshifted.
        `store_kv=False` leaves `past_key_values` without the keys and values of this input, as
        denoising steps need it.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("forward needs input_ids or inputs_embeds.")
        cached = 0 if past_key_values is None else past_key_values.get_seq_length()
        if attention_mask is None or attention_mask.dim() == 2:
            attention_mask, position_ids = self._block_mask(
                given, attention_mask, position_ids, cached
            )
        elif attention_mask.dim() == 3:
            attention_mask = self._additive_mask(attention_mask[:, None] != 0)
        elif attention_mask.dtype == torch.bool:
            attention_mask = self._additive_mask(attention_mask)
        output = super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        if past_key_values is not None and not store_kv:
            past_key_values.crop(-given.shape[1])
        if labels is not None:
            logits = output.logits.float().flatten(0, 1)
            output.loss = F.cross_entropy(logits, labels.flatten().to(logits.device))
        return output

    def _block_mask(
        self, given: Tensor, padding: Tensor | None, position_ids: Tensor | None, cached: int
    ) -> tuple[Tensor, Tensor]:
        """Return the additive mask [N, 1, T, K] and the positions [N, T]; padding is not counted."""
        rows, tokens = given.shape[:2]
        if padding is None:
            padding = torch.ones((rows, cached + tokens), device=given.device)
        real = padding != 0
        positions = (real.long().cumsum(-1) - 1).clamp(min=0)
        if position_ids is not None:
            positions[:, cached:] = position_ids
        blocks = torch.div(positions, self.config.block_size, rounding_mode="floor")
        seen = (blocks[:, None] <= blocks[:, cached:, None]) & real[:, None]
        # A row of the softmax without any key would be NaN: every token sees itself.
        own = torch.arange(cached + tokens, device=given.device)
        seen = seen | (own == own[cached:, None])
        return self._additive_mask(seen[:, None]), positions[:, cached:]

    def _additive_mask(self, seen: Tensor) -> Tensor:
        """Return 0 where a query sees a key, else the smallest number of the model's dtype."""
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(self.dtype).min)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        stopping_criteria: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return prompts and responses [N, T + new]; a row that ends early is filled with padding.

        `inputs` or `input_ids` [N, T] are prompts, padded on the left, with their `attention_mask`.
        Keywords override generation_config: max_new_tokens or max_length, do_sample, temperature,
        top_k, top_p, eos_token_id, pad_token_id and those of DECODING_DEFAULTS. Stopping criteria
        are called as in autoregressive decoding, with one more token each time. Raises ValueError
        for options that block diffusion does not have.
        """
        prompts = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if prompts is None:
            raise ValueError("generate needs inputs, the token ids of the prompts.")
        padding = kwargs.pop("attention_mask", None)
        if padding is None:
            padding = torch.ones_like(prompts)
        decoding = self._read_options(generation_config, kwargs, prompts.shape[1])
        return self._decode(prompts, padding != 0, decoding, list(stopping_criteria or []))

    def _read_options(
        self, generation_config: Any, overrides: dict[str, Any], prompt_width: int
    ) -> Decoding:
        """Merge defaults, generation_config and keywords; refuse what cannot be done."""
        config: Any = copy.deepcopy(generation_config or self.generation_config)
        for name, default in DECODING_DEFAULTS.items():
            if not hasattr(config, name):
                setattr(config, name, default)
        overrides.pop("use_cache", None)  # blocks are always cached
        refused = list(config.update(**overrides))
        refused += [
            name
            for name, neutral in NEUTRAL_OPTIONS.items()
            if getattr(config, name, None) not in (None, neutral)
        ]
        if refused:
            raise ValueError(
                f"Block-diffusion generation does not support {', '.join(sorted(refused))}."
            )
        if config.unmasking_strategy not in UNMASKING_RULES:
            raise ValueError(
                f"Unknown unmasking_strategy {config.unmasking_strategy!r}; "
                f"choose one of {', '.join(UNMASKING_RULES)}."
            )
        block = self.config.block_size
        steps = config.denoising_steps or block
        if not 1 <= steps <= block:
            raise ValueError(
                f"denoising_steps is {steps}; it must be 1 to the block length {block}."
            )
        stop_ids = _as_list(config.eos_token_id)
        fillers = [*_as_list(config.pad_token_id), *stop_ids]
        if not fillers:
            raise ValueError("Set pad_token_id or eos_token_id; rows that end early need a filler.")
        budget = config.max_new_tokens
        if budget is None:
            budget = config.max_length - prompt_width if config.max_length else DEFAULT_NEW_TOKENS
        if budget < 1:
            raise ValueError(
                f"max_length {config.max_length} leaves no token after a prompt of {prompt_width}."
            )
        return Decoding(
            unmasking_strategy=config.unmasking_strategy,
            tokens_per_step=max(1, block // steps),
            confidence_threshold=config.confidence_threshold,
            entropy_bound=config.entropy_bound,
            selection=config.selection,
            # Transformers' default is 1.0, with or without sampling.
            temperature=_or(config.temperature, 1.0) if config.do_sample else 0.0,
            top_k=_or(config.top_k, 0),
            top_p=_or(config.top_p, 1.0),
            max_new_tokens=budget,
            stop_ids=stop_ids,
            pad_id=fillers[0],
        )

    def _decode(
        self, prompts: Tensor, real: Tensor, decoding: Decoding, criteria: list[Any]
    ) -> Tensor:
        """Decode all rows together; each has its own grid of blocks, which begins with its prompt."""
        rows, width = prompts.shape
        block, device = self.config.block_size, prompts.device
        stops = torch.tensor(decoding.stop_ids, dtype=torch.long, device=device)
        lengths = real.sum(-1)
        # Whole blocks of a prompt are cached; its remainder is the start of the first decoded block.
        whole = torch.div(lengths, block, rounding_mode="floor") * block
        remainder = lengths - whole
        prefix = int(whole.max())
        start = torch.full((rows, prefix), decoding.pad_id, device=device)
        tokens = torch.full((rows, block), self.config.mask_token_id, device=device)
        offsets = torch.arange(block, device=device)
        masked = offsets >= remainder[:, None]
        for row, count in enumerate(whole.tolist()):
            ids = prompts[row, real[row]]
            start[row, prefix - count :] = ids[:count]
            tokens[row, : len(ids) - count] = ids[count:]
        # Shorter prompts are padded on the left by whole blocks, so that all rows keep one width.
        seen = torch.arange(prefix, device=device) >= prefix - whole[:, None]
        cache = DynamicCache()
        if prefix:
            self(start, attention_mask=seen.long(), past_key_values=cache, use_cache=True)
        sequences, done = prompts, torch.zeros(rows, dtype=torch.bool, device=device)
        response = tokens[:, :0]
        while True:
            positions = (whole + cache.get_seq_length() - prefix)[:, None] + offsets
            seen = F.pad(seen, (0, block), value=True)
            call = {
                "attention_mask": seen[:, None].expand(rows, block, -1),
                "position_ids": positions,
                "past_key_values": cache,
                "use_cache": True,
            }
            while masked.any():
                logits = self(tokens, store_kv=False, **call).logits
                tokens, masked = self._denoise(tokens, masked, logits, decoding)
            response = torch.cat([response, tokens], 1)
            # Rows whose prompts end at different offsets of a block share these columns.
            shared = response.shape[1] - int(remainder.max())
            for column in range(sequences.shape[1] - width, min(shared, decoding.max_new_tokens)):
                token = response.gather(1, remainder[:, None] + column)
                sequences = torch.cat(
                    [sequences, token.masked_fill(done[:, None], decoding.pad_id)], 1
                )
                done = done | torch.isin(token[:, 0], stops)
                for criterion in criteria:
                    done = done | torch.as_tensor(criterion(sequences, None), device=device)
                if done.all():
                    return sequences
            if shared >= decoding.max_new_tokens:
                return sequences
            self(tokens, **call)
            tokens = torch.full_like(tokens, self.config.mask_token_id)
            masked = torch.ones_like(masked)

    def _denoise(
        self, tokens: Tensor, masked: Tensor, logits: Tensor, decoding: Decoding
    ) -> tuple[Tensor, Tensor]:
        """Commit some masked positions [N, B]; return the tokens and what is still masked."""
        ids = torch.arange(logits.shape[-1], device=logits.device)
        named = self.config.tokenizer_length or logits.shape[-1]
        # Embeddings are padded beyond the vocabulary; such ids have no text.
        banned = (ids == self.config.mask_token_id) | (ids >= named)
        # Greedy decoding takes its confidences at temperature 1.
        scaled = logits.float().masked_fill(banned, -torch.inf) / (decoding.temperature or 1.0)
        logprobs = scaled.log_softmax(-1)
        if decoding.temperature == 0:
            candidates = logprobs.argmax(-1)
        else:
            weights = _truncate(logprobs, decoding.top_k, decoding.top_p).exp()
            candidates = torch.multinomial(weights.flatten(0, 1), 1).view_as(tokens)
        if decoding.selection == "max":
            confidence = logprobs.amax(-1).exp()
        else:
            confidence = logprobs.gather(-1, candidates[..., None])[..., 0].exp()
        rule = UNMASKING_RULES[decoding.unmasking_strategy]
        commit = masked & rule(decoding, masked, confidence, logprobs)
        return torch.where(commit, candidates, tokens), masked & ~commit


def _commit_static(
    decoding: Decoding, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    return _rank(confidence, masked) < decoding.tokens_per_step


def _commit_dynamic(
    decoding: Decoding, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    return (confidence >= decoding.confidence_threshold) | (_rank(confidence, masked) == 0)


def _commit_sequential(
    decoding: Decoding, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    return masked.cumsum(-1) <= decoding.tokens_per_step


def _commit_entropy_bounded(
    decoding: Decoding, masked: Tensor, confidence: Tensor, logprobs: Tensor
) -> Tensor:
    entropy = torch.special.entr(logprobs.exp()).sum(-1).masked_fill(~masked, torch.inf)
    ordered, order = entropy.sort(dim=-1, stable=True)
    within = ordered.cumsum(-1) <= decoding.entropy_bound
    within[:, 0] = True
    return torch.zeros_like(masked).scatter(-1, order, within)


def _rank(confidence: Tensor, masked: Tensor) -> Tensor:
    """Return the rank [N, B] by descending confidence; the leftmost of equal ones comes first."""
    order = (-confidence).masked_fill(~masked, torch.inf).argsort(dim=-1, stable=True)
    return order.argsort(dim=-1)


UNMASKING_RULES: dict[str, Any] = {
    "low_confidence_static": _commit_static,
    "low_confidence_dynamic": _commit_dynamic,
    "sequential": _commit_sequential,
    "entropy_bounded": _commit_entropy_bounded,
}


def _truncate(logprobs: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set tokens beyond the `top_k` most likely ones, then beyond a mass of `top_p`, to -inf."""
    if 0 < top_k < logprobs.shape[-1]:
        least = logprobs.topk(top_k).values[..., -1:]
        logprobs = logprobs.masked_fill(logprobs < least, -torch.inf)
    if top_p < 1:
        ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
        mass = ordered.softmax(-1)
        cut = mass.cumsum(-1) - mass > top_p
        logprobs = logprobs.scatter(-1, order, ordered.masked_fill(cut, -torch.inf))
    return logprobs


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


class SDARForCausalLM(BlockDiffusionMixin, Qwen3ForCausalLM):  # type: ignore[misc]
    """Dense SDAR model."""

    config_class = SDARConfig


class SDARMoeForCausalLM(BlockDiffusionMixin, Qwen3MoeForCausalLM):  # type: ignore[misc]
    """Mixture-of-experts SDAR model."""

    config_class = SDARMoeConfig


class BlockDiffusionQwen3ForCausalLM(BlockDiffusionMixin, Qwen3ForCausalLM):  # type: ignore[misc]
    """Converted Qwen3 model that keeps its model type."""

    config_class = BlockDiffusionQwen3Config


class BlockDiffusionQwen3MoeForCausalLM(BlockDiffusionMixin, Qwen3MoeForCausalLM):  # type: ignore[misc]
    """Converted Qwen3-MoE model that keeps its model type."""

    config_class = BlockDiffusionQwen3MoeConfig


class BlockDiffusionQwen2ForCausalLM(BlockDiffusionMixin, Qwen2ForCausalLM):  # type: ignore[misc]
    """Converted Qwen2 model."""

    config_class = BlockDiffusionQwen2Config


class BlockDiffusionLlamaForCausalLM(BlockDiffusionMixin, LlamaForCausalLM):  # type: ignore[misc]
    """Converted Llama model."""

    config_class = BlockDiffusionLlamaConfig


class BlockDiffusionMistralForCausalLM(BlockDiffusionMixin, MistralForCausalLM):  # type: ignore[misc]
    """Converted Mistral model."""

    config_class = BlockDiffusionMistralConfig


class BlockDiffusionPhi3ForCausalLM(BlockDiffusionMixin, Phi3ForCausalLM):  # type: ignore[misc]
    """Converted Phi-3 or Phi-4 model."""

    config_class = BlockDiffusionPhi3Config


class BlockDiffusionOlmo2ForCausalLM(BlockDiffusionMixin, Olmo2ForCausalLM):  # type: ignore[misc]
    """Converted OLMo 2 model."""

    config_class = BlockDiffusionOlmo2Config


class BlockDiffusionGraniteForCausalLM(BlockDiffusionMixin, GraniteForCausalLM):  # type: ignore[misc]
    """Converted Granite model."""

    config_class = BlockDiffusionGraniteConfig
