"""Charts that a job's page shows by default, and the metrics that each of them draws.

scripts/dashboard_inputs.py writes them, with the metrics, to the dashboard's sources;
docs/reference/metrics.md names the chart of each metric.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from services.common.job_metrics import JobMetric, MetricUnit, Stage

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
        about="Mean and standard deviation of the reward over the responses of a step.",
        lines={JobMetric.REWARD_MEAN: "mean", JobMetric.REWARD_STD: "std"},
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
        about="Fraction of groups whose responses are all correct or all incorrect. Their advantage is zero.",
        lines={
            JobMetric.REWARD_FRAC_ALL_CORRECT: "all correct",
            JobMetric.REWARD_FRAC_ALL_WRONG: "all incorrect",
        },
    ),
)


def find_chart(metric: JobMetric) -> Chart | None:
    """Return the default chart that draws a metric; None for a metric that is drawn on request."""
    return next((chart for chart in CHARTS if metric in chart.lines), None)
