"""Every outcome downstream: a failure of the verifier has no number in rewards, advantages,
metrics, evaluations.
"""

import math
from dataclasses import replace

import pytest

from services.common.advantages import group_advantages
from services.common.errors import PlatformError
from services.common.grader_spec import parse_grader
from services.common.job_spec import RewardSpec, RlSpec
from services.common.trajectory import Outcome, Verdict
from services.trainer.learner.evaluation import evaluation_results
from services.trainer.learner.graded_group import GradedGroup, assess_group
from services.trainer.learner.rl_batch import RlBatch
from services.trainer.learner.rl_metrics import batch_metrics
from tests.support.builders import trajectory
from tests.support.learners import graded_group

GRADERS = (parse_grader("accuracy"), parse_grader({"name": "boxed", "weight": 0.5}))
REWARD = RewardSpec(graders=GRADERS, max_unverifiable_rate=1.0)
UNSCORED = [Outcome.UNVERIFIABLE, Outcome.ABORTED]
SCORED = [outcome for outcome in Outcome if outcome not in UNSCORED]


def group(*outcomes: Outcome) -> GradedGroup:
    """Responses graded so; every scored one is boxed."""
    return graded_group(
        [
            trajectory(
                response_index=place,
                trajectory_id=f"traj_{place}",
                verdict=Verdict(
                    outcome=outcome,
                    reason="overloaded",
                    rewards={"accuracy": float(outcome is Outcome.CORRECT), "boxed": 1.0}
                    if outcome in SCORED
                    else {},
                ),
            )
            for place, outcome in enumerate(outcomes)
        ]
    )


def batch(*outcomes: Outcome) -> RlBatch:
    rl = RlSpec(prompts_per_step=1, num_generations=2, dynamic_sampling="off")
    return RlBatch([assess_group(group(*outcomes), rl, REWARD)], rounds=1)


def rewards_of(*outcomes: Outcome) -> list[float | None]:
    return batch(*outcomes).groups[0].rewards


def metrics(*outcomes: Outcome) -> dict[str, float]:
    return batch_metrics(batch(*outcomes), RlSpec(), REWARD, threshold=0.9)


@pytest.mark.parametrize("outcome", SCORED)
def test_a_failure_of_the_answer_has_a_reward(outcome: Outcome) -> None:
    assert rewards_of(outcome) == [1.5 if outcome is Outcome.CORRECT else 0.5]


@pytest.mark.parametrize("outcome", UNSCORED)
def test_a_failure_of_ours_has_no_reward_and_moves_no_advantage(outcome: Outcome) -> None:
    rewards = rewards_of(Outcome.CORRECT, outcome, Outcome.INCORRECT)
    assert rewards == [1.5, None, 0.5]
    for baseline in ("std", "mean", "leave_one_out"):
        with_failure = group_advantages(rewards, baseline)  # type: ignore[arg-type]
        without = group_advantages([1.5, 0.5], baseline)  # type: ignore[arg-type]
        assert with_failure == [without[0], None, without[1]]


@pytest.mark.parametrize("outcome", UNSCORED)
def test_a_failure_of_ours_is_not_a_sample_to_train_on(outcome: Outcome) -> None:
    samples = batch(Outcome.CORRECT, outcome, Outcome.INCORRECT).samples()
    assert [sample.trajectory_id for sample in samples] == ["traj_0", "traj_2"]


@pytest.mark.parametrize("outcome", UNSCORED)
def test_it_changes_no_metric_but_the_share_of_its_outcome(outcome: Outcome) -> None:
    plain = metrics(Outcome.CORRECT, Outcome.INCORRECT)
    shown = metrics(Outcome.CORRECT, outcome, Outcome.INCORRECT)
    scores = [name for name in plain if name.startswith("reward/") and "/outcome/" not in name]
    assert {name: shown[name] for name in scores} == {name: plain[name] for name in scores}
    assert shown[f"reward/outcome/{outcome.value}"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("outcome", UNSCORED)
def test_a_step_without_any_score_reports_no_reward_instead_of_zero(outcome: Outcome) -> None:
    ungraded = replace(
        group(outcome, outcome), rewards=[None, None], advantages=[None, None], dropped="error"
    )
    shown = batch_metrics(RlBatch([ungraded], rounds=1), RlSpec(), REWARD, threshold=0.9)
    numbers = (
        "reward/mean",
        "reward/std",
        "reward/min",
        "reward/max",
        "reward/accuracy",
        "reward/boxed",
        "reward/pass",
    )
    costs = "/seconds"
    assert not [n for n in shown if n.startswith(numbers) and not n.endswith(costs)]
    assert all(math.isfinite(value) for value in shown.values())


@pytest.mark.parametrize("outcome", UNSCORED)
def test_an_evaluation_leaves_it_out_of_the_accuracy(outcome: Outcome) -> None:
    assert evaluation_results([group(Outcome.CORRECT, outcome)], REWARD)["accuracy"] == 1.0
    with pytest.raises(PlatformError, match="none of 1 responses could be graded"):
        evaluation_results([group(outcome)], REWARD)


@pytest.mark.parametrize(
    "outcome", [outcome for outcome in SCORED if outcome is not Outcome.CORRECT]
)
def test_a_failure_of_the_answer_counts_as_wrong_everywhere(outcome: Outcome) -> None:
    assert metrics(Outcome.CORRECT, outcome)["reward/accuracy"] == 0.5
    assert evaluation_results([group(outcome)], REWARD)["accuracy"] == 0.0
