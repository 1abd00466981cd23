"""Resolve the decoding configuration from the job spec and the checkpoint."""

from services.common.diffusion.config import DecodingConfig
from services.common.errors import Problem, ProblemsError
from services.common.job_spec import JobSpec


def resolve_decoding(
    spec: JobSpec,
    *,
    block_size: int,
    mask_token_id: int,
    stop_token_ids: tuple[int, ...],
    evaluation: bool,
) -> DecodingConfig:
    """Return the decoding of training rollouts or of evaluation, with defaults of the checkpoint.

    Raises ProblemsError if spec and checkpoint contradict each other.
    """
    _require_consistency(spec, block_size, mask_token_id)
    diffusion = spec.diffusion
    budget = (spec.eval.max_new_tokens if evaluation else None) or spec.sampling.max_new_tokens
    return DecodingConfig(
        block_size=block_size,
        denoising_steps=diffusion.denoising_steps or block_size,
        unmasking_strategy=diffusion.unmasking_strategy,
        confidence_threshold=diffusion.confidence_threshold,
        entropy_bound=diffusion.entropy_bound,
        selection=diffusion.selection,
        mask_token_id=mask_token_id,
        temperature=spec.eval.temperature if evaluation else spec.sampling.temperature,
        top_p=spec.eval.top_p if evaluation else spec.sampling.top_p,
        top_k=spec.eval.top_k if evaluation else spec.sampling.top_k,
        max_new_tokens=budget,
        stop_token_ids=stop_token_ids,
        record_candidates=not evaluation and spec.rl.estimator == "all_candidates",
    )


def _require_consistency(spec: JobSpec, block_size: int, mask_token_id: int) -> None:
    diffusion = spec.diffusion
    pairs = (
        ("block_size", diffusion.block_size, block_size),
        ("mask_token_id", diffusion.mask_token_id, mask_token_id),
    )
    problems = [
        Problem(
            f"diffusion.{name}",
            f"is {asked}, but the checkpoint has {own}; remove it to use the value of the checkpoint",
        )
        for name, asked, own in pairs
        if asked is not None and asked != own
    ]
    steps = [("diffusion.denoising_steps", diffusion.denoising_steps or 1)]
    steps += [
        (f"eval.denoising_steps.{place}", count)
        for place, count in enumerate(spec.eval.denoising_steps)
    ]
    problems += [
        Problem(path, f"is {count}, more than the {block_size} tokens of a block")
        for path, count in steps
        if count > block_size
    ]
    if problems:
        raise ProblemsError("spec_invalid", "The job spec contradicts the model", problems)
