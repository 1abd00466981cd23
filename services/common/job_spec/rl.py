"""Reinforcement learning."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from services.common.diffusion.config import Frozen
from services.common.exactness import apply_exact_settings
from services.common.job_spec.notes import CONFIGURATION, PAPER, notes
from services.common.job_spec.training import OptimSpec


class CurriculumSpec(Frozen):
    """Which prompts a step gets, from their pass rates so far."""

    sampler: Literal["uniform", "difficulty", "skip_solved"] = "uniform"
    """`uniform` visits every row once per epoch. The others choose one of `candidates` rows for each
    prompt: `difficulty` the one whose pass rate, drawn from its Beta posterior, is nearest to
    `target`; `skip_solved` the first that is not solved.
    """
    candidates: int = Field(4, gt=1, le=64, json_schema_extra=notes(unit="rows"))
    """Rows that the sampler chooses from, the next ones of the seeded order. The rest waits for the
    next epoch.
    """
    target: float = Field(0.5, gt=0, lt=1)
    """Pass rate that `difficulty` looks for."""
    solved: float = Field(1.0, gt=0, le=1)
    """Share of recent responses that must succeed for `skip_solved` to skip a row."""
    success_reward: float = Field(0.5, allow_inf_nan=False)
    """A response succeeds when its reward is greater."""


class RlSpec(Frozen):
    """Reinforcement learning (DiPO): policy gradient on the recorded denoising steps."""

    training_file: str | None = None
    """Rows of this stage: file id (`file_…`) or path. None takes the job's `training_file`."""
    steps: int = Field(100, gt=0, json_schema_extra=notes(unit="steps"))
    """Training steps of the stage. Each gathers one batch of groups and trains on it."""
    prompts_per_step: int = Field(32, gt=0, json_schema_extra=notes(unit="prompts"))
    """Groups that a step trains on."""
    num_generations: int = Field(
        8, gt=1, json_schema_extra=notes(unit="responses", source=CONFIGURATION)
    )
    """Responses to each prompt: the size of a group."""
    curriculum: CurriculumSpec = CurriculumSpec()
    preset: Literal["exact"] | None = None
    """`exact` sets the keys under which the expected update is the gradient of the expected reward:
    `advantage` leave_one_out, `normaliser` constant, `dynamic_sampling` off, `num_iterations` 1,
    `minibatches` 1, `kl_beta` 0, `max_staleness` 0. A spec that sets one of them otherwise is
    rejected.
    """
    estimator: Literal["accepted", "all_candidates"] = Field(
        "accepted", json_schema_extra=notes(source=PAPER)
    )
    """Tokens whose log-probabilities the gradient is taken of: `accepted`, the committed tokens, or
    `all_candidates`, the rejected candidates as well.
    """
    advantage: Literal["std", "mean", "leave_one_out"] = Field(
        "std", json_schema_extra=notes(source=PAPER)
    )
    """Advantage of a response: its reward minus the mean of the group, divided by the group's
    standard deviation (`std`) or not (`mean`), or minus the mean of the other responses
    (`leave_one_out`).
    """
    normaliser: Literal["token", "response", "constant"] = Field(
        "token", json_schema_extra=notes(source=f"{CONFIGURATION}, DAPO variant")
    )
    """Weight of a token in the loss: all tokens of the mini-batch weigh the same (`token`), all
    responses do (`response`), or each token weighs 1 / (responses x sampling.max_new_tokens)
    (`constant`).
    """
    clip_low: float = Field(0.2, ge=0, le=1, json_schema_extra=notes(source=CONFIGURATION))
    """Lower clip: the importance ratio is clipped at 1 - clip_low."""
    clip_high: float = Field(0.28, ge=0, json_schema_extra=notes(source=CONFIGURATION))
    """Upper clip: the importance ratio is clipped at 1 + clip_high."""
    ratio: Literal["behaviour", "proximal"] = "behaviour"
    """Denominator of the clipped ratio: the log-probabilities that the engine recorded
    (`behaviour`), or those of the weights before the step (`proximal`).
    """
    importance_cap: float = Field(2.0, gt=0)
    """With `ratio` proximal, the largest importance weight π_prox / π_b of a token (truncated
    importance sampling, arXiv 1802.01561).
    """
    num_iterations: int = Field(1, gt=0, json_schema_extra=notes(unit="passes", source=PAPER))
    """Passes over a step's batch."""
    minibatches: int = Field(1, gt=0)
    """Number of mini-batches, of whole groups, that a pass is split into. Each is one optimizer
    step.
    """
    kl_beta: float = Field(0.0, ge=0, json_schema_extra=notes(source=CONFIGURATION))
    """Weight of the KL divergence from the weights that the stage began with. 0 keeps no copy of
    them.
    """
    kl_estimator: Literal["k3", "k2"] = Field("k3", json_schema_extra=notes(source=CONFIGURATION))
    """Estimator of the KL divergence, with d = log π - log π_ref: `k3` is exp(-d) - 1 + d, unbiased
    in value; `k2` is d² / 2, whose gradient is that of the divergence.
    """
    max_staleness: int = Field(0, ge=0, json_schema_extra=notes(unit="weight versions"))
    """Largest number of weight versions between the weights that sampled a trajectory and those it
    trains. 0 is on-policy and reproducible; above 0, replicas decode while the learner trains.
    """
    dynamic_sampling: Literal["reward", "correctness", "off"] = Field(
        "reward", json_schema_extra=notes(source=PAPER)
    )
    """Drop groups without a learning signal and sample replacements: groups of equal rewards
    (`reward`), or groups whose responses are all correct or all incorrect (`correctness`, the rule
    of DAPO, which needs a grader of correctness). `true` is `reward`, `false` is `off`.
    """
    min_reward_std: float = Field(1e-6, ge=0, allow_inf_nan=False)
    """Rewards of a group whose standard deviation is at most this count as equal."""
    max_resample_rounds: int = Field(2, ge=0, json_schema_extra=notes(unit="rounds"))
    """Rounds of replacement prompts per step, after which the step trains on the groups it has."""
    min_groups_per_step: int = Field(1, gt=0, json_schema_extra=notes(unit="groups"))
    """Fewest groups that a step trains on. With fewer the job is paused with `no_learning_signal`."""
    parity_tolerance: float | None = Field(None, gt=0)
    """Largest |engine - trainer| / max(1, |trainer|) of a log-probability on the parity probe. A
    replica beyond it does not use the weight version. None takes 1e-4 in fp32, where the two agree
    to 1e-5 except for a tail, and 0.1 in bf16.
    """
    logged_groups_per_step: int = Field(8, ge=0, json_schema_extra=notes(unit="groups"))
    """Groups per step whose trajectories are kept in full for inspection."""
    optim: OptimSpec | None = None
    """Optimizer of this stage. None takes the job's `optim`."""

    @property
    def off_policy(self) -> bool:
        """Whether weights train on trajectories that other weights sampled."""
        return self.num_iterations * self.minibatches > 1 or self.max_staleness > 0

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        return (
            apply_exact_settings(data)
            if isinstance(data, dict) and data.get("preset") == "exact"
            else data
        )

    @model_validator(mode="before")
    @classmethod
    def _name_dynamic_sampling(cls, data: Any) -> Any:
        # Runs before _preset, which compares values: pydantic calls the last one first.
        if isinstance(data, dict) and isinstance(data.get("dynamic_sampling"), bool):
            return {**data, "dynamic_sampling": "reward" if data["dynamic_sampling"] else "off"}
        return data

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.min_groups_per_step > self.prompts_per_step:
            raise ValueError(
                f"min_groups_per_step={self.min_groups_per_step} exceeds prompts_per_step={self.prompts_per_step}"
            )
        if self.minibatches > self.min_groups_per_step:
            raise ValueError(
                f"minibatches={self.minibatches} exceeds min_groups_per_step={self.min_groups_per_step}; every "
                "mini-batch needs a whole group, also in a step that gathered the fewest"
            )
        return self
