"""Warnings about settings that are valid but have an effect that few expect."""

from torch import nn

from services.common.job_spec import OptimSpec
from services.trainer.learner.journal import Journal


def warn_about_warmup(journal: Journal, optim: OptimSpec, stage: str, num_steps: int) -> None:
    """Emit a warning if the learning rate never reaches `optim.lr` within the stage."""
    if optim.warmup_steps > num_steps:
        highest = optim.lr * num_steps / optim.warmup_steps
        journal.say(
            "warning",
            "warmup_exceeds_stage",
            f"optim.warmup_steps is {optim.warmup_steps}, but the {stage} stage has {num_steps} steps: its learning "
            f"rate ends at {highest:.3g} and never reaches optim.lr = {optim.lr:g}.",
            warmup_steps=optim.warmup_steps,
            num_steps=num_steps,
        )


def warn_about_experts(journal: Journal, model: nn.Module) -> None:
    """Emit a warning if an adapter leaves weights of experts as they are."""
    counts = {True: 0, False: 0}
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            counts[name.rpartition(".")[0].endswith(".experts")] += parameter.numel()
    if counts[True]:
        share = counts[True] / sum(counts.values())
        journal.say(
            "warning",
            "adapter_skips_experts",
            f"The LoRA adapter does not reach the experts, {share:.0%} of the model's weights: they are no linear "
            "layers. Train without [lora] to change them.",
            share=share,
        )
