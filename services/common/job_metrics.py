"""Every metric that a job reports: its name, unit, meaning, the stages that report it, and the charts
that a job's page draws by default.

The learner reports under these names, the recorder stores them, and Prometheus, the diagnosis, the
command line, the dashboard (through scripts/dashboard_inputs.py) and docs/reference/metrics.md read
them from here. `JobMetric` holds the fixed names, `PATTERNS` the names with a parameter, such as one
per grader, `CHARTS` the default charts.

A new metric needs two edits: a member here, and the line that reports it. To draw it by default, add
it to a chart of `CHARTS`; every other metric can be added to a job's page by hand.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from functools import cached_property
from typing import Final, Literal

Stage = Literal["sft", "rl", "eval"]


class MetricUnit(StrEnum):
    """Unit of a value; decides how the dashboard formats it."""

    FRACTION = "fraction"
    """0 to 1, shown in percent."""
    SECONDS = "seconds"
    COUNT = "count"
    TOKENS = "tokens"
    TOKENS_PER_SECOND = "tokens/s"
    NATS = "nats"
    BYTES = "bytes"
    GIB = "GiB"
    NUMBER = "number"
    """Without a unit."""


_SFT: Final = frozenset[Stage]({"sft"})
_RL: Final = frozenset[Stage]({"rl"})
_TRAINING: Final = frozenset[Stage]({"sft", "rl"})
_ANY: Final = frozenset[Stage]({"sft", "rl", "eval"})


@unique
class JobMetric(StrEnum):
    """A metric with a fixed name. A member is its name: it can be a key of a dictionary of values."""

    unit: MetricUnit
    stages: frozenset[Stage]
    meaning: str

    def __new__(
        cls, name: str, unit: MetricUnit, stages: frozenset[Stage], meaning: str
    ) -> "JobMetric":
        """Make a member that equals its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.unit, member.stages, member.meaning = unit, stages, meaning
        return member

    # fmt: off
    TRAIN_LOSS = "train/loss", MetricUnit.NUMBER, _TRAINING, \
        "Loss of the update: for SFT in nats per answer token, for RL the policy loss plus the weighted KL term."
    TRAIN_POLICY_LOSS = "train/policy_loss", MetricUnit.NUMBER, _RL, \
        "Clipped policy-gradient loss without the KL term."
    TRAIN_GRAD_NORM = "train/grad_norm", MetricUnit.NUMBER, _TRAINING, \
        "Norm of the gradient before clipping."
    TRAIN_LR = "train/lr", MetricUnit.NUMBER, _TRAINING, \
        "Learning rate of the step."
    TRAIN_CLIP_FRACTION = "train/clip_fraction", MetricUnit.FRACTION, _RL, \
        "Fraction of tokens whose importance ratio was clipped."
    TRAIN_IS_RATIO_MEAN = "train/is_ratio_mean", MetricUnit.NUMBER, _RL, \
        "Mean importance ratio of a token: trainer's probability over the recorded rollout probability."
    TRAIN_IS_RATIO_MAX = "train/is_ratio_max", MetricUnit.NUMBER, _RL, \
        "Largest importance ratio of a token."
    TRAIN_IS_CAPPED_FRACTION = "train/is_capped_fraction", MetricUnit.FRACTION, _RL, \
        "Fraction of tokens whose importance weight rl.importance_cap cut; with rl.ratio = proximal only."
    TRAIN_MISMATCH_KL = "train/mismatch_kl", MetricUnit.NATS, _RL, \
        "KL divergence of the trainer's policy from the rollout policy per token, estimator k3."
    TRAIN_LOGPROB_ABS_DIFF_MEAN = "train/logprob_abs_diff_mean", MetricUnit.NATS, _RL, \
        "Mean absolute difference between the trainer's and the rollout's log-probability of a token."
    TRAIN_LOGPROB_ABS_DIFF_MAX = "train/logprob_abs_diff_max", MetricUnit.NATS, _RL, \
        "Largest absolute difference between the trainer's and the rollout's log-probability of a token."
    TRAIN_LOGPROB_GAP_MAX = "train/logprob_gap_max", MetricUnit.NUMBER, _RL, \
        "Largest log-probability difference of a token relative to max(1, |log-prob|)."
    TRAIN_ENTROPY = "train/entropy", MetricUnit.NATS, _RL, \
        "Mean entropy of the policy at committed tokens."
    TRAIN_KL = "train/kl", MetricUnit.NATS, _RL, \
        "KL divergence from the reference policy per token; with rl.kl_beta above 0 only."
    TRAIN_SELECTION_DRIFT = "train/selection_drift", MetricUnit.FRACTION, _RL, \
        "Fraction of denoising steps that would commit other positions under the current weights; off-policy only."
    TRAIN_UPDATES = "train/updates", MetricUnit.COUNT, _RL, \
        "Optimizer steps taken on the batch: rl.num_iterations times rl.minibatches."
    TRAIN_GLOBAL_STEP = "train/global_step", MetricUnit.COUNT, _TRAINING, \
        "Steps of the job so far, over all stages."

    DIFFUSION_MASKED_TOKENS_TRAINED = "diffusion/masked_tokens_trained", MetricUnit.TOKENS, _TRAINING, \
        "Loss terms of the step: masked tokens that were trained."
    DIFFUSION_TOKENS_PER_STEP = "diffusion/tokens_per_step", MetricUnit.NUMBER, _RL, \
        "Tokens committed per denoising step in training rollouts."
    DIFFUSION_STEPS_PER_BLOCK = "diffusion/steps_per_block", MetricUnit.NUMBER, _RL, \
        "Denoising steps per decoded block."
    DIFFUSION_CONFIDENCE_MEAN = "diffusion/confidence_mean", MetricUnit.FRACTION, _RL, \
        "Mean confidence at which tokens were committed."
    DIFFUSION_THRESHOLD = "diffusion/threshold", MetricUnit.FRACTION, _RL, \
        "Confidence threshold of the rollouts' decoding."

    REWARD_MEAN = "reward/mean", MetricUnit.NUMBER, _RL, \
        "Mean reward over the graded responses of a step."
    REWARD_STD = "reward/std", MetricUnit.NUMBER, _RL, \
        "Standard deviation of the reward over the graded responses of a step."
    REWARD_MIN = "reward/min", MetricUnit.NUMBER, _RL, \
        "Lowest reward of a step."
    REWARD_MAX = "reward/max", MetricUnit.NUMBER, _RL, \
        "Highest reward of a step."
    REWARD_ACCURACY = "reward/accuracy", MetricUnit.FRACTION, _RL, \
        "Fraction of graded training responses that are correct; with a grader of correctness only."
    REWARD_PASS_AT_K = "reward/pass_at_k", MetricUnit.FRACTION, _RL, \
        "Fraction of groups with a correct response; without a grader of correctness, with a 1 of the first binary one."
    REWARD_FRAC_ALL_CORRECT = "reward/frac_all_correct", MetricUnit.FRACTION, _RL, \
        "Fraction of groups whose graded responses are all correct."
    REWARD_FRAC_ALL_WRONG = "reward/frac_all_wrong", MetricUnit.FRACTION, _RL, \
        "Fraction of groups without a correct response."
    REWARD_FRAC_ZERO_STD = "reward/frac_zero_std", MetricUnit.FRACTION, _RL, \
        "Fraction of zero-variance groups: equal rewards, hence zero advantages and no gradient."
    REWARD_OUTCOME_CORRECT = "reward/outcome/correct", MetricUnit.FRACTION, _RL, \
        "Fraction of responses with the outcome correct."
    REWARD_OUTCOME_INCORRECT = "reward/outcome/incorrect", MetricUnit.FRACTION, _RL, \
        "Fraction of responses with the outcome incorrect."
    REWARD_OUTCOME_NO_ANSWER = "reward/outcome/no_answer", MetricUnit.FRACTION, _RL, \
        "Fraction of responses in which no answer was found."
    REWARD_OUTCOME_TRUNCATED = "reward/outcome/truncated", MetricUnit.FRACTION, _RL, \
        "Fraction of responses that reached the token budget before an answer."
    REWARD_OUTCOME_TOO_COMPLEX = "reward/outcome/too_complex", MetricUnit.FRACTION, _RL, \
        "Fraction of responses whose answer exceeds the verifier's limits; counted as incorrect."
    REWARD_OUTCOME_SCORED = "reward/outcome/scored", MetricUnit.FRACTION, _RL, \
        "Fraction of responses that were graded without a comparison with a reference answer."
    REWARD_OUTCOME_UNVERIFIABLE = "reward/outcome/unverifiable", MetricUnit.FRACTION, _RL, \
        "Fraction of responses that the verifier failed to grade; they carry no reward."
    REWARD_OUTCOME_ABORTED = "reward/outcome/aborted", MetricUnit.FRACTION, _RL, \
        "Fraction of responses that were aborted before they ended; they carry no reward."
    REWARD_JUDGE_TOKENS = "reward/judge_tokens", MetricUnit.TOKENS, _RL, \
        "Tokens that judges read and wrote for the responses of a step."
    EVAL_JUDGE_TOKENS = "eval/validation/judge_tokens", MetricUnit.TOKENS, _ANY, \
        "Tokens that judges read and wrote for an evaluation."
    REWARD_LATENCY_P50_S = "reward/latency_p50_s", MetricUnit.SECONDS, _RL, \
        "Median time to grade a response."
    REWARD_LATENCY_P95_S = "reward/latency_p95_s", MetricUnit.SECONDS, _RL, \
        "95th percentile of the time to grade a response."
    REWARD_LATENCY_P99_S = "reward/latency_p99_s", MetricUnit.SECONDS, _RL, \
        "99th percentile of the time to grade a response."

    ROLLOUT_GROUPS = "rollout/groups", MetricUnit.COUNT, _RL, \
        "Groups graded for the step, dropped ones included."
    ROLLOUT_GROUPS_TRAINED = "rollout/groups_trained", MetricUnit.COUNT, _RL, \
        "Groups that the step trained on."
    ROLLOUT_RESAMPLE_ROUNDS = "rollout/resample_rounds", MetricUnit.COUNT, _RL, \
        "Times that the step requested more prompts to replace dropped groups."
    ROLLOUT_RESPONSE_LENGTH_MEAN = "rollout/response_length_mean", MetricUnit.TOKENS, _RL, \
        "Mean length of a finished response."
    ROLLOUT_RESPONSE_LENGTH_P50 = "rollout/response_length_p50", MetricUnit.TOKENS, _RL, \
        "Median length of a finished response."
    ROLLOUT_RESPONSE_LENGTH_P95 = "rollout/response_length_p95", MetricUnit.TOKENS, _RL, \
        "95th percentile of the length of a finished response."
    ROLLOUT_RESPONSE_LENGTH_MAX = "rollout/response_length_max", MetricUnit.TOKENS, _RL, \
        "Length of the longest finished response."
    ROLLOUT_TRUNCATION_RATE = "rollout/truncation_rate", MetricUnit.FRACTION, _RL, \
        "Fraction of finished responses that reached the token budget."
    ROLLOUT_UNIQUE_RATIO = "rollout/unique_ratio", MetricUnit.FRACTION, _RL, \
        "Distinct responses per response of a group, on the mean."

    STALENESS_MEAN = "staleness/mean", MetricUnit.NUMBER, _RL, \
        "Mean number of weight versions by which the trained trajectories are behind the trainer."
    STALENESS_MAX = "staleness/max", MetricUnit.COUNT, _RL, \
        "Largest number of weight versions by which a trained trajectory is behind the trainer."
    STALENESS_VERSION_SPAN_MAX = "staleness/version_span_max", MetricUnit.COUNT, _RL, \
        "Largest difference of weight versions within one group."
    STALENESS_DROPPED_GROUPS = "staleness/dropped_groups", MetricUnit.COUNT, _RL, \
        "Groups dropped since the last step because they exceed rl.max_staleness."

    EVAL_REWARD = "eval/validation/reward", MetricUnit.NUMBER, _ANY, \
        "Mean reward on the validation set, averaged over prompts."
    EVAL_ACCURACY = "eval/validation/accuracy", MetricUnit.FRACTION, _ANY, \
        "Fraction of correct responses on the validation set, averaged over prompts; avg@k for any k. " \
        "With a grader of correctness only."
    EVAL_TOKENS_PER_STEP = "eval/validation/tokens_per_step", MetricUnit.NUMBER, _ANY, \
        "Tokens committed per denoising step on the validation set."
    EVAL_AUP = "eval/validation/aup", MetricUnit.NUMBER, _ANY, \
        "Accuracy under parallelism (d3LLM) over the decodings evaluated at the end of a stage."
    EVAL_MEAN_RESPONSE_LENGTH = "eval/validation/mean_response_length", MetricUnit.TOKENS, _ANY, \
        "Mean length of a finished response on the validation set."
    EVAL_TRUNCATION_RATE = "eval/validation/truncation_rate", MetricUnit.FRACTION, _ANY, \
        "Fraction of finished validation responses that reached the token budget."
    EVAL_LOSS = "eval/validation/loss", MetricUnit.NUMBER, _SFT, \
        "Supervised loss on the validation set, in nats per answer token."

    PERF_PADDING_RATIO = "perf/padding_ratio", MetricUnit.FRACTION, _TRAINING, \
        "Padding tokens as a fraction of the tokens that the trainer computed."
    PERF_MFU = "perf/mfu", MetricUnit.FRACTION, _TRAINING, \
        "Model FLOPs utilization of the updates; on devices whose peak FLOPS are known only."
    PERF_TRAINER_TOKENS_PER_S = "perf/trainer_tokens_per_s", MetricUnit.TOKENS_PER_SECOND, _TRAINING, \
        "Answer tokens trained per second of training."
    PERF_ROLLOUT_TOKENS_PER_S = "perf/rollout_tokens_per_s", MetricUnit.TOKENS_PER_SECOND, _RL, \
        "Response tokens per second of the rollout phase."
    PERF_TOKENS_PER_S_PER_GPU = "perf/tokens_per_s_per_gpu", MetricUnit.TOKENS_PER_SECOND, _RL, \
        "Response tokens per second of a whole step and GPU, trainer ranks and replicas counted; with CUDA only."
    PERF_TRAINER_IDLE_RATIO = "perf/trainer_idle_ratio", MetricUnit.FRACTION, _RL, \
        "Fraction of the step in which the trainer waits for rollouts."
    PERF_ROLLOUT_IDLE_RATIO = "perf/rollout_idle_ratio", MetricUnit.FRACTION, _RL, \
        "Fraction of the rollout phase (asynchronous rollouts: of the step) in which the engines do not compute."
    PERF_ROLLOUT_BYTES_GIVEN_BACK = "perf/rollout_bytes_given_back", MetricUnit.BYTES, _RL, \
        "Device memory that sleeping engines release before training; with resources.colocate only."
    PERF_PEAK_MEMORY_GIB = "perf/peak_memory_gib", MetricUnit.GIB, _TRAINING, \
        "Peak memory of the learner so far: CUDA allocations, or resident memory without CUDA."

    TIME_STEP_S = "time/step_s", MetricUnit.SECONDS, _TRAINING, \
        "Wall time of the step."
    TIME_ROLLOUT_S = "time/rollout_s", MetricUnit.SECONDS, _RL, \
        "Wall time of the rollout phase: until the batch is complete."
    TIME_WAIT_FOR_BATCH_S = "time/wait_for_batch_s", MetricUnit.SECONDS, _RL, \
        "Wall time in which the learner waits for groups, within the rollout phase."
    TIME_WAIT_FOR_TRAINER_S = "time/wait_for_trainer_s", MetricUnit.SECONDS, _RL, \
        "Seconds per engine without work since the previous batch was complete."
    TIME_REWARD_S = "time/reward_s", MetricUnit.SECONDS, _RL, \
        "Mean time to grade a group; overlapped with decoding."
    TIME_TRAIN_S = "time/train_s", MetricUnit.SECONDS, _TRAINING, \
        "Wall time of the forward and backward passes and the optimizer."
    TIME_WEIGHT_SYNC_S = "time/weight_sync_s", MetricUnit.SECONDS, _ANY, \
        "Wall time in which the learner waits for replicas to load weights."
    TIME_SLEEP_S = "time/sleep_s", MetricUnit.SECONDS, _RL, \
        "Wall time until the engines released the device; with resources.colocate only."
    TIME_CHECKPOINT_S = "time/checkpoint_s", MetricUnit.SECONDS, _TRAINING, \
        "Wall time to write a checkpoint."
    TIME_EVAL_S = "time/eval_s", MetricUnit.SECONDS, _ANY, \
        "Wall time of an evaluation or a validation loss."

    WEIGHTS_VERSION = "weights/version", MetricUnit.COUNT, _TRAINING, \
        "Weight version after the step; equals the global step."
    WEIGHTS_SYNC_S = "weights/sync_s", MetricUnit.SECONDS, _RL, \
        "Seconds of the last weight sync to all replicas."
    WEIGHTS_SYNC_BYTES = "weights/sync_bytes", MetricUnit.BYTES, _RL, \
        "Bytes of the last weight sync, all replicas together."
    WEIGHTS_DIGEST_OK = "weights/digest_ok", MetricUnit.NUMBER, _RL, \
        "1 when every replica loaded the last weight version with the right hash, else 0."
    WEIGHTS_PARITY_GAP = "weights/parity_gap", MetricUnit.NUMBER, _RL, \
        "Largest relative log-probability difference between a replica and the trainer on the parity probe."
    # fmt: on


@dataclass(frozen=True)
class MetricPattern:
    """Metrics that share a meaning and differ in one part of their name."""

    template: str
    """Name with its parameters in braces, e.g. `reward/{grader}/mean`."""
    unit: MetricUnit
    stages: frozenset[Stage]
    meaning: str

    def format_name(self, **parameters: object) -> str:
        """Return the name for the given parameters; raises KeyError when one is missing."""
        return self.template.format(**parameters)

    def matches(self, name: str) -> bool:
        """Whether a name is one of this pattern."""
        return self.regex.fullmatch(name) is not None

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Expression for the whole name; a parameter has no slash."""
        return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(self.template)))


GRADER_MEAN: Final = MetricPattern(
    "reward/{grader}/mean",
    MetricUnit.NUMBER,
    _RL,
    "Mean score of one grader over the graded responses of a step.",
)
GRADER_SECONDS: Final = MetricPattern(
    "reward/{grader}/seconds",
    MetricUnit.SECONDS,
    _RL,
    "Wall time of one grader, over all responses of a step.",
)
EVAL_AVG_AT_K: Final = MetricPattern(
    "eval/validation/avg@{k}",
    MetricUnit.FRACTION,
    _ANY,
    "Fraction of correct responses on the validation set, averaged over prompts with k responses each.",
)
EVAL_PASS_AT_K: Final = MetricPattern(
    "eval/validation/pass@{k}",
    MetricUnit.FRACTION,
    _ANY,
    "Fraction of validation prompts with a correct response among k; as for reward/pass_at_k.",
)
EVAL_BEST_AT_K: Final = MetricPattern(
    "eval/validation/best@{k}",
    MetricUnit.NUMBER,
    _ANY,
    "Highest reward among k responses to a validation prompt, averaged over prompts.",
)
EVAL_GRADER_MEAN: Final = MetricPattern(
    "eval/validation/{grader}/mean",
    MetricUnit.NUMBER,
    _ANY,
    "Mean score of one grader on the validation set.",
)
PATTERNS: Final = (
    GRADER_MEAN,
    GRADER_SECONDS,
    EVAL_AVG_AT_K,
    EVAL_BEST_AT_K,
    EVAL_PASS_AT_K,
    EVAL_GRADER_MEAN,
)
"""Names with a parameter."""

OUTCOME_METRICS: Final[Mapping[str, JobMetric]] = {
    metric.removeprefix("reward/outcome/"): metric
    for metric in JobMetric
    if metric.startswith("reward/outcome/")
}
"""Fraction of each outcome of grading, by the outcome's value."""
LATENCY_PERCENTILES: Final[Mapping[int, JobMetric]] = {
    50: JobMetric.REWARD_LATENCY_P50_S,
    95: JobMetric.REWARD_LATENCY_P95_S,
    99: JobMetric.REWARD_LATENCY_P99_S,
}
"""Time to grade a response, by percentile."""


_BY_NAME: Final[Mapping[str, JobMetric]] = {str(metric): metric for metric in JobMetric}


def find_metric(name: str) -> JobMetric | MetricPattern | None:
    """Return the description of a metric; None for a name that is not registered."""
    patterns = (pattern for pattern in PATTERNS if pattern.matches(name))
    return _BY_NAME.get(name) or next(patterns, None)


def is_evaluated(name: str) -> bool:
    """Whether a metric is a result of evaluations."""
    return name.startswith("eval/")


ChartGroup = Literal["Progress", "Stability", "Performance", "Health"]
CHART_GROUPS: Final[tuple[ChartGroup, ...]] = ("Progress", "Stability", "Performance", "Health")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Metrics that are drawn over the same axes."""

    id: str
    group: ChartGroup
    title: str
    about: str
    """One or two sentences that explain the chart to its reader."""
    lines: Mapping[JobMetric, str]
    """Metrics in the order of their colors, with the label of each in the legend."""
    is_logarithmic: bool = False

    @property
    def unit(self) -> MetricUnit:
        """Unit of the value axis."""
        return next(iter(self.lines)).unit

    @property
    def stages(self) -> frozenset[Stage]:
        """Stages that report a metric of the chart."""
        return frozenset[Stage]().union(*(metric.stages for metric in self.lines))


CHARTS: Final = (
    Chart(
        id="accuracy",
        group="Progress",
        title="Accuracy",
        about="Fraction of correct responses in training rollouts and on the validation set.",
        lines={JobMetric.REWARD_ACCURACY: "rollouts", JobMetric.EVAL_ACCURACY: "validation"},
    ),
    Chart(
        id="reward",
        group="Progress",
        title="Reward",
        about="Mean and standard deviation of the reward over the responses of a step, and its mean on the "
        "validation set.",
        lines={
            JobMetric.REWARD_MEAN: "mean",
            JobMetric.REWARD_STD: "std",
            JobMetric.EVAL_REWARD: "validation",
        },
    ),
    Chart(
        id="loss",
        group="Progress",
        title="Loss",
        about="Training loss and supervised loss on the validation set.",
        lines={JobMetric.TRAIN_LOSS: "training", JobMetric.EVAL_LOSS: "validation"},
    ),
    Chart(
        id="entropy",
        group="Stability",
        title="Entropy",
        about="Mean entropy of the policy at committed tokens, in nats. Entropy near 0 means no exploration.",
        lines={JobMetric.TRAIN_ENTROPY: "nats"},
    ),
    Chart(
        id="grad-norm",
        group="Stability",
        title="Gradient norm",
        about="Global gradient norm before clipping.",
        lines={JobMetric.TRAIN_GRAD_NORM: "norm"},
    ),
    Chart(
        id="clip-fraction",
        group="Stability",
        title="Clip fraction",
        about="Fraction of tokens whose importance ratio was clipped.",
        lines={JobMetric.TRAIN_CLIP_FRACTION: "clip fraction"},
    ),
    Chart(
        id="logprob-difference",
        group="Stability",
        title="Trainer-rollout log-prob difference",
        about="Absolute difference between the log-probability of a token in the trainer and the one "
        "recorded by the rollout.",
        lines={
            JobMetric.TRAIN_LOGPROB_ABS_DIFF_MEAN: "mean",
            JobMetric.TRAIN_LOGPROB_ABS_DIFF_MAX: "max",
        },
        is_logarithmic=True,
    ),
    Chart(
        id="tokens-per-step",
        group="Performance",
        title="Tokens per denoising step",
        about="Tokens committed per forward pass.",
        lines={
            JobMetric.DIFFUSION_TOKENS_PER_STEP: "rollouts",
            JobMetric.EVAL_TOKENS_PER_STEP: "validation",
        },
    ),
    Chart(
        id="time",
        group="Performance",
        title="Time per step",
        about="Wall time of the phases of a step. Grading runs concurrently with decoding.",
        lines={
            JobMetric.TIME_ROLLOUT_S: "rollout",
            JobMetric.TIME_TRAIN_S: "train",
            JobMetric.TIME_WEIGHT_SYNC_S: "sync",
            JobMetric.TIME_REWARD_S: "reward",
        },
    ),
    Chart(
        id="throughput",
        group="Performance",
        title="Throughput",
        about="Tokens per second of rollout decoding and of training.",
        lines={
            JobMetric.PERF_ROLLOUT_TOKENS_PER_S: "rollout",
            JobMetric.PERF_TRAINER_TOKENS_PER_S: "trainer",
        },
    ),
    Chart(
        id="outcomes",
        group="Health",
        title="Outcomes",
        about="Outcomes other than correct and incorrect. An unverifiable response has no reward.",
        lines={
            JobMetric.REWARD_OUTCOME_NO_ANSWER: "no answer",
            JobMetric.REWARD_OUTCOME_TRUNCATED: "truncated",
            JobMetric.REWARD_OUTCOME_TOO_COMPLEX: "too complex",
            JobMetric.REWARD_OUTCOME_UNVERIFIABLE: "unverifiable",
        },
    ),
    Chart(
        id="zero-variance",
        group="Health",
        title="Zero-variance groups",
        about="Fraction of groups whose responses have equal rewards, hence zero advantages; and of those whose "
        "responses are all correct or all incorrect, where a grader looks at correctness.",
        lines={
            JobMetric.REWARD_FRAC_ZERO_STD: "equal rewards",
            JobMetric.REWARD_FRAC_ALL_CORRECT: "all correct",
            JobMetric.REWARD_FRAC_ALL_WRONG: "all incorrect",
        },
    ),
)


def find_chart(metric: JobMetric) -> Chart | None:
    """Return the default chart that draws a metric; None for a metric that is drawn on request."""
    return next((chart for chart in CHARTS if metric in chart.lines), None)
