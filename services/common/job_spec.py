"""The job spec: what a user asks for, as frozen data. Read from TOML or JSON, unknown keys refused, hashed.

Defaults are practical ones for a small model; docs/algorithm.md says which of them bias the gradient.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from services.common.diffusion.config import Frozen, Selection, UnmaskingStrategy
from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.exactness import require_exact_estimator, require_policy_sampling, with_exact_settings
from services.common.grader_spec import GraderSpec, parse_grader, require_own_names

MethodType = Literal["sft", "rl", "eval", "pipeline"]
Stage = Literal["sft", "rl", "eval"]
_METHOD_SYNONYMS = {"supervised": "sft", "reinforcement": "rl"}
_MAX_METADATA = 16
_MAX_MIXED = 32


class Method(Frozen):
    """What is to be done; OpenAI's object, or the plain string as shorthand."""

    type: Annotated[MethodType, BeforeValidator(lambda value: _METHOD_SYNONYMS.get(value, value))]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages in order, each starting from the weights of the last."""
        return ("sft", "rl", "eval") if self.type == "pipeline" else (self.type,)


def _method_object(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class DiffusionSpec(Frozen):
    """Block diffusion; governs rollout, training and evaluation alike."""

    block_size: int | None = Field(None, gt=0)
    """Tokens per block; None takes the checkpoint's. A value that contradicts the checkpoint is refused."""
    denoising_steps: int | None = Field(None, gt=0)
    """Steps per block of the static and sequential rules; None is one token per step."""
    unmasking_strategy: UnmaskingStrategy = UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC
    confidence_threshold: float = Field(0.9, ge=0, le=1)
    entropy_bound: float = Field(0.5, ge=0)
    """Nats."""
    selection: Selection = Selection.MAX
    mask_token_id: int | None = Field(None, ge=0)
    """None takes the checkpoint's."""


class SamplingSpec(Frozen):
    """Sampling of training rollouts. Anything but temperature 1 without cuts makes importance ratios approximate."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_new_tokens: int = Field(512, gt=0)


class PromptSpec(Frozen):
    """How a row becomes a prompt."""

    template: str = "{prompt}"
    """Text of the user turn; `{prompt}` is the row's problem."""
    system: str | None = None
    max_prompt_tokens: int = Field(1024, gt=0)
    """Longer prompts are dropped and counted, never cut."""


class OptimSpec(Frozen):
    """AdamW."""

    lr: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    warmup_steps: int = Field(0, ge=0)
    """Linear; the first step already moves."""
    scheduler: Literal["constant", "cosine", "linear"] = "constant"
    """Decay from the end of the warm-up to the last step of the stage."""
    max_grad_norm: float = Field(1.0, gt=0)


class SftSpec(Frozen):
    """Supervised fine-tuning with random masking."""

    training_file: str | None = None
    """Overrides the job's."""
    epochs: int = Field(1, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Ends the stage earlier than `epochs` would."""
    batch_size: int = Field(64, gt=0)
    """Rows per optimizer step."""
    validation_file: str | None = None
    """Rows whose loss is reported; None takes those of the job's validation_file that have a completion."""
    validation_interval_steps: int | None = Field(None, gt=0)
    """Steps between validations, with one after the last; the checkpoint of the lowest loss is kept. None is never."""
    noise: Literal["document", "block", "trace"] = "document"
    """Whether a document or each of its blocks draws its own mask rate, or a row's own `unmask_step` is followed."""
    min_noise: float = Field(1e-3, gt=0, lt=1)
    """Lower end of the mask rate."""
    optim: OptimSpec | None = None
    """Overrides the job's."""


class LoraSpec(Frozen):
    """Low-rank adapters beside frozen weights, for SFT and RL alike; what is served and exported is merged."""

    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    """The adapter's product is scaled by alpha / rank."""
    dropout: Literal[0] = 0
    """Must be 0: dropout would make the trained policy another one than the one that decodes, and resuming inexact."""
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(None, min_length=1)
    """Last names of linear layers, such as q_proj; None takes all of the decoder's blocks."""


class RlSpec(Frozen):
    """DiPO: policy gradient on the denoising steps that really happened."""

    training_file: str | None = None
    """Overrides the job's."""
    steps: int = Field(100, gt=0)
    prompts_per_step: int = Field(32, gt=0)
    num_generations: int = Field(8, gt=1)
    preset: Literal["exact"] | None = None
    """`exact` sets what EXACT says, and refuses what contradicts it."""
    estimator: Literal["accepted", "all_candidates"] = "accepted"
    """Whose log-probabilities are differentiated: committed tokens, or rejected candidates as well."""
    advantage: Literal["std", "mean", "leave_one_out"] = "std"
    normaliser: Literal["token", "response", "constant"] = "token"
    clip_low: float = Field(0.2, ge=0, le=1)
    clip_high: float = Field(0.28, ge=0)
    ratio: Literal["behaviour", "proximal"] = "behaviour"
    """What the clipped ratio is relative to: the recorded log-probs, or those of the weights before the step."""
    importance_cap: float = Field(2.0, gt=0)
    """With ratio = proximal, the largest weight π_prox / π_b of a token (truncated importance sampling)."""
    num_iterations: int = Field(1, gt=0)
    """Passes over a step's batch."""
    minibatches: int = Field(1, gt=0)
    """Parts of whole groups that a pass is split into; each is one update of the weights."""
    kl_beta: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the weights that the stage began with; 0 keeps no copy of them."""
    kl_estimator: Literal["k3", "k2"] = "k3"
    max_staleness: int = Field(0, ge=0)
    """Weight versions that a trajectory may be older than those it trains. 0 is strictly on-policy and reproducible;
    above, replicas decode while the learner trains."""
    dynamic_sampling: bool = True
    """Drop groups whose correctness does not vary, and refill."""
    max_resample_rounds: int = Field(2, ge=0)
    min_groups_per_step: int = Field(1, gt=0)
    parity_tolerance: float | None = Field(None, gt=0)
    """Largest |engine - trainer| / max(1, |trainer|) of a log-probability on the parity probe; a replica beyond it does
    not use a weight version. None takes 1e-4 in fp32, where the two agree to 1e-5 but for a tail, and 0.1 in bf16."""
    logged_groups_per_step: int = Field(8, ge=0)
    """Groups whose trajectories are kept in full for inspection."""
    optim: OptimSpec | None = None
    """Overrides the job's."""

    @property
    def off_policy(self) -> bool:
        """Whether weights train on trajectories that other weights sampled."""
        return self.num_iterations * self.minibatches > 1 or self.max_staleness > 0

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        return with_exact_settings(data) if isinstance(data, dict) and data.get("preset") == "exact" else data

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


class TrainerSpec(Frozen):
    """How the learner computes; none of it changes loss or gradient."""

    seq_len: int = Field(4096, gt=0)
    """Longest prompt + response in tokens; longer rows are dropped and counted."""
    max_tokens_per_microbatch: int = Field(16384, gt=0)
    """Row tokens (clean and noisy) of one forward pass."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes passes in bf16 on a GPU; weights, optimizer and log-softmax stay fp32. A CPU trains in fp32."""
    gradient_checkpointing: bool = False


class RewardSpec(Frozen):
    """How responses are graded: the reward is the sum of weight · score over the graders (docs/rewards.md)."""

    graders: tuple[GraderSpec, ...] = Field((parse_grader("accuracy"),), min_length=1, max_length=16)
    timeout_s: float = Field(3.0, gt=0, le=60)
    """Wall time of one verification, from its dispatch."""
    max_unverifiable_rate: float = Field(0.05, ge=0, le=1)
    """Above this share of unverifiable responses in a step the job pauses, with `reward_error_rate` and samples."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        try:
            require_own_names(self.graders)
        except PlatformError as error:
            raise ValueError(error.message) from None
        return self


class CheckpointSpec(Frozen):
    """When state is written, and what is kept. The last step of every stage is always written."""

    interval_steps: int = Field(50, gt=0)
    keep_last: int = Field(3, gt=0)
    keep_every: int | None = Field(None, gt=0)
    """Multiples of this step are kept for good."""


class EvalSpec(Frozen):
    """Evaluation on the validation file."""

    interval_steps: int | None = Field(None, gt=0)
    """None evaluates at the end of each stage only."""
    num_samples: int | None = Field(None, gt=0)
    """Rows of the validation file that are used; None is all."""
    num_generations: int = Field(1, gt=0)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_new_tokens: int | None = Field(None, gt=0)
    """None is `sampling.max_new_tokens`."""
    confidence_thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((), max_length=16)
    """Other thresholds at which the weights are evaluated too when a stage ends: accuracy against speed."""


class ResourcesSpec(Frozen):
    """What the job asks the platform for."""

    trainer_ranks: int = Field(1, gt=0)
    """Processes of the learner; the weights are sharded over them. On GPUs, one device each."""
    rollout_replicas: int = Field(1, gt=0)
    rollout_batch_size: int = Field(0, ge=0)
    """Responses decoded side by side per replica; 0 lets the replica choose."""
    colocate: bool = False
    """Replicas and learner share devices and take turns: replicas give their memory back while the learner trains."""


class MixturePart(Frozen):
    """One file of a mixture."""

    file: str = Field(min_length=1)
    """File id (`file_…`) or path."""
    weight: float = Field(1.0, gt=0, le=1e6)
    """Share of the prompts relative to the other files, whatever their lengths."""


class JobSpec(Frozen):
    """A whole job."""

    model: str = Field(min_length=1)
    """Directory, id of a registered model (`model_…`), or name on the Hugging Face hub."""
    model_revision: str | None = None
    """Revision pin for a hub model."""
    method: Annotated[Method, BeforeValidator(_method_object)]
    training_file: str | None = None
    """File id (`file_…`) or path."""
    training_mixture: tuple[MixturePart, ...] = Field((), max_length=_MAX_MIXED)
    """Files that are trained on side by side, in place of training_file. An epoch has as many rows as all of them."""
    validation_file: str | None = None
    suffix: str | None = Field(None, max_length=64)
    seed: int = Field(0, ge=0, lt=2**31)
    priority: int = Field(0, ge=-100, le=100)
    """Waiting jobs of a higher priority get services first."""
    metadata: dict[str, str] = Field(default_factory=dict, max_length=_MAX_METADATA)
    diffusion: DiffusionSpec = DiffusionSpec()
    sampling: SamplingSpec = SamplingSpec()
    prompt: PromptSpec = PromptSpec()
    optim: OptimSpec = OptimSpec()
    sft: SftSpec = SftSpec()
    rl: RlSpec = RlSpec()
    lora: LoraSpec | None = None
    """None trains all weights."""
    trainer: TrainerSpec = TrainerSpec()
    reward: RewardSpec = RewardSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    eval: EvalSpec = EvalSpec()
    resources: ResourcesSpec = ResourcesSpec()

    @model_validator(mode="after")
    def _one_file_or_a_mixture(self) -> Self:
        if self.training_file is not None and self.training_mixture:
            raise ValueError("training_file and training_mixture exclude each other; name the file in the mixture")
        return self

    @model_validator(mode="after")
    def _files_for_stages(self) -> Self:
        for stage in self.method.stages:
            if stage == "eval" and self.validation_file is None:
                raise ValueError(f"method {self.method.type!r} evaluates, so validation_file is required")
            if stage != "eval" and not self.training_files_of(stage):
                others = f"training_mixture, or {stage}.training_file"
                raise ValueError(f"method {self.method.type!r} needs training_file (or {others})")
        return self

    @model_validator(mode="after")
    def _sft_validates(self) -> Self:
        if self.sft.validation_interval_steps is not None and self.sft_validation_file() is None:
            raise ValueError("sft.validation_interval_steps needs sft.validation_file (or validation_file)")
        return self

    @model_validator(mode="after")
    def _thresholds_have_a_rule(self) -> Self:
        rule = self.diffusion.unmasking_strategy
        if self.eval.confidence_thresholds and rule is not UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC:
            raise ValueError(
                "eval.confidence_thresholds need diffusion.unmasking_strategy 'low_confidence_dynamic'; "
                f"{rule.value!r} has no threshold"
            )
        return self

    @model_validator(mode="after")
    def _rl_samples(self) -> Self:
        if "rl" in self.method.stages and self.sampling.temperature == 0:
            raise ValueError(
                "sampling.temperature is 0, but greedy responses of one prompt are all equal and teach nothing; "
                "reinforcement learning needs a temperature above 0 (1 keeps importance ratios exact)"
            )
        return self

    @model_validator(mode="after")
    def _taking_turns_is_on_policy(self) -> Self:
        if self.resources.colocate and self.rl.max_staleness > 0:
            raise ValueError(f"resources.colocate needs rl.max_staleness 0, got {self.rl.max_staleness}")
        return self

    @model_validator(mode="after")
    def _exact_preset_fits(self) -> Self:
        if self.rl.preset == "exact" and "rl" in self.method.stages:
            sampling, diffusion = self.sampling, self.diffusion
            require_policy_sampling(sampling.temperature, sampling.top_p, sampling.top_k)
            require_exact_estimator(self.rl.estimator, diffusion.unmasking_strategy, diffusion.selection)
        return self

    def training_files_of(self, stage: Literal["sft", "rl"]) -> tuple[MixturePart, ...]:
        """The stage's own training file, else the job's mixture, which may be of one file."""
        own = self.sft.training_file if stage == "sft" else self.rl.training_file
        single = own or self.training_file
        return self.training_mixture if single is None else (MixturePart(file=single),)

    def sft_validation_file(self) -> str | None:
        """The supervised stage's own validation file, else the job's."""
        return self.sft.validation_file or self.validation_file

    def optim_of(self, stage: Literal["sft", "rl"]) -> OptimSpec:
        """The stage's own optimizer settings, else the job's."""
        return (self.sft.optim if stage == "sft" else self.rl.optim) or self.optim

    def files(self) -> tuple[str, ...]:
        """Every file the job reads, each once."""
        stages = (self.sft.training_file, self.sft.validation_file, self.rl.training_file)
        mixed = (part.file for part in self.training_mixture)
        named = (self.training_file, self.validation_file, *stages, *mixed)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def needs_rollout(self) -> bool:
        """Whether any stage decodes."""
        return self.method.type != "sft" or self.validation_file is not None

    def canonical_json(self) -> str:
        """The spec with all defaults, keys sorted; what is hashed, stored and sent."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def spec_hash(self) -> str:
        """sha256 of canonical_json, hex."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def parse_spec(data: Any) -> JobSpec:
    """Validate a mapping; raises ProblemsError naming every problem with its path."""
    try:
        return JobSpec.model_validate(data)
    except ValidationError as error:
        problems = [_problem(item["loc"], item["msg"], item.get("input")) for item in error.errors()]
        raise ProblemsError("spec_invalid", "The job spec cannot be used", problems) from None


def _problem(location: tuple[int | str, ...], message: str, value: Any) -> Problem:
    path = ".".join(str(part) for part in location) or "spec"
    if message == "Extra inputs are not permitted":
        return Problem(path, "unknown key")
    shown = "" if isinstance(value, dict | list) else f" (got {value!r})"
    return Problem(path, message.removeprefix("Value error, ") + shown)
