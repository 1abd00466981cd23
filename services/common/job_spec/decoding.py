"""How prompts are written and responses decoded."""

from pydantic import Field

from services.common.diffusion.config import Frozen, Selection, UnmaskingStrategy
from services.common.job_spec.notes import CONFIGURATION, PAPER, notes


class DiffusionSpec(Frozen):
    """Block diffusion: how a block of tokens is denoised in rollouts, training and evaluation."""

    block_size: int | None = Field(None, gt=0, json_schema_extra=notes(unit="tokens"))
    """Tokens per block. None takes the checkpoint's value; a value that contradicts the checkpoint
    is rejected.
    """
    denoising_steps: int | None = Field(None, gt=0, json_schema_extra=notes(unit="steps"))
    """Denoising steps per block for the strategies `low_confidence_static` and `sequential`. None
    commits one token per step.
    """
    unmasking_strategy: UnmaskingStrategy = Field(
        UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC, json_schema_extra=notes(source=PAPER)
    )
    """Rule that picks the masked positions a denoising step commits: `low_confidence_static` (the
    most confident block_size // denoising_steps), `low_confidence_dynamic` (all at or above
    `confidence_threshold`, at least one), `sequential` (the leftmost block_size //
    denoising_steps), `entropy_bounded` (the positions of lowest entropy whose sum stays within
    `entropy_bound`, at least one).
    """
    confidence_threshold: float = Field(0.9, ge=0, le=1, json_schema_extra=notes(source=PAPER))
    """Confidence from which `low_confidence_dynamic` commits a position. Lower values commit more
    tokens per step: faster, less accurate.
    """
    entropy_bound: float = Field(0.5, ge=0, json_schema_extra=notes(unit="nats"))
    """Largest summed entropy of the positions that `entropy_bounded` commits in one step."""
    selection: Selection = Selection.MAX
    """Confidence of a position: `max`, its largest probability, or `sampled`, the probability of
    the sampled candidate. The published method uses `sampled`, which biases the gradient of
    accepted tokens unless `rl.estimator` is `all_candidates`.
    """
    mask_token_id: int | None = Field(None, ge=0)
    """Token id of a masked position. None takes the checkpoint's value."""


class SamplingSpec(Frozen):
    """Sampling of training rollouts. Importance ratios are exact only with temperature 1, top_p 1
    and top_k 0.
    """

    temperature: float = Field(1.0, ge=0, json_schema_extra=notes(source=CONFIGURATION))
    """Divisor of the logits. Reinforcement learning needs a value above 0."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: the smallest set of most likely tokens whose probability reaches this
    value. 1 disables it.
    """
    top_k: int = Field(0, ge=0, json_schema_extra=notes(unit="tokens"))
    """Number of most likely tokens that sampling is limited to. 0 disables it. The published recipe
    samples from the top 50 but trains on the full distribution.
    """
    max_new_tokens: int = Field(512, gt=0, json_schema_extra=notes(unit="tokens"))
    """Longest response. One that reaches it without an end token is truncated."""


class PromptSpec(Frozen):
    """How a row becomes a prompt."""

    template: str = "{prompt}"
    """Text of the user turn. `{prompt}` stands for the row's problem."""
    system: str | None = None
    """Text of the system turn. None sends no system turn."""
    max_prompt_tokens: int = Field(
        1024, gt=0, json_schema_extra=notes(unit="tokens", source=CONFIGURATION)
    )
    """Longest prompt, template included. Rows with longer prompts are dropped and counted, never
    truncated.
    """
