"""Samplers: what they choose, that they choose it again, and what a checkpoint and a certificate keep."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from services.common.job_spec import CurriculumSpec, parse_spec
from services.trainer.learner.curriculum import (
    PromptStatistics,
    choose_row,
    count_differences,
    summarize,
)
from services.trainer.learner.ledger import (
    PromptLedger,
    PromptOrder,
    PromptResult,
    StepRecord,
    certify,
)
from services.trainer.learner.state import RunState, StageLedger, StoredRows, parse_state

ROWS = StoredRows(file_sha256="0" * 64, num_rows=40)
KEY = "3:rl"
SPEC = parse_spec({"model": "/model", "method": "rl", "training_file": "/rows", "seed": 3})
RATES = {row: row / 39 for row in range(40)}


def make_stage() -> StageLedger:
    return StageLedger(ROWS, ROWS.order(3, "rl"), PromptLedger())


def train(
    stage: StageLedger, curriculum: CurriculumSpec, steps: int, per_step: int = 4
) -> list[int]:
    """Steps of a model whose pass rate of every row is fixed; the rows in the order of their issue."""
    rows: list[int] = []
    for _ in range(steps):
        positions = stage.ledger.issue(per_step)
        chosen = [stage.row(position, curriculum, KEY) for position in positions]
        results = tuple(PromptResult(row, 8, round(8 * RATES[row])) for row in chosen)
        stage.close(StepRecord("rl", len(rows) // per_step + 1, tuple(positions), {}, results))
        rows += chosen
    return rows


def sampler(name: str, **options: object) -> CurriculumSpec:
    return CurriculumSpec.model_validate({"sampler": name, **options})


def test_uniform_visits_every_row_once_per_epoch_as_it_always_did() -> None:
    stage = make_stage()
    rows = train(stage, sampler("uniform"), 20)
    assert rows == [PromptOrder("3:rl", 40).row(position) for position in range(80)]
    assert set(Counter(rows).values()) == {2}
    assert stage.chosen == {}


@pytest.mark.parametrize("target", [0.25, 0.75])
def test_difficulty_prefers_rows_whose_pass_rate_is_near_the_target(target: float) -> None:
    rows = train(make_stage(), sampler("difficulty", target=target, candidates=8), 100)
    late = rows[200:]
    distance = sum(abs(RATES[row] - target) for row in late) / len(late)
    uniform = sum(abs(rate - target) for rate in RATES.values()) / 40
    assert distance < uniform / 2
    # Rows far off are looked at now and then, because little is known of them.
    assert len(set(rows)) > 25


def test_skip_solved_leaves_out_what_always_succeeds_and_nothing_else() -> None:
    rows = train(make_stage(), sampler("skip_solved", candidates=4, solved=0.9), 100)
    late = Counter(rows[100:])
    assert not [row for row in late if RATES[row] > 0.95]
    assert {row for row in RATES if RATES[row] < 0.85} <= set(late)


def test_when_all_candidates_are_solved_one_is_trained_all_the_same() -> None:
    statistics = PromptStatistics()
    statistics.add(PromptResult(row, 8, 8) for row in range(40))
    order = PromptOrder(KEY, 40)
    row = choose_row(sampler("skip_solved"), order, 0, statistics, KEY)
    assert row == order.row(0)


@pytest.mark.parametrize("name", ["uniform", "difficulty", "skip_solved"])
def test_a_resumed_stage_makes_the_choices_of_one_that_never_stopped(name: str) -> None:
    curriculum = sampler(name)
    whole = make_stage()
    expected = train(whole, curriculum, 12)

    first = make_stage()
    rows = train(first, curriculum, 5)
    # Positions that were open when the checkpoint was written keep their rows.
    opened = [first.row(position, curriculum, KEY) for position in first.ledger.issue(4)]
    state = RunState(stages={"rl": first}, global_step=5, stage_step=5)
    resumed = parse_state(state.to_stored(SPEC).model_dump_json(), SPEC).stages["rl"]
    assert train(resumed, curriculum, 7) == expected[20:]
    assert rows + opened == expected[:24]
    assert resumed.statistics.totals() == whole.statistics.totals()


def test_open_positions_keep_their_rows_whatever_is_learned_meanwhile_and_after_a_resume() -> None:
    stage, curriculum = make_stage(), sampler("difficulty", candidates=8)
    positions = stage.ledger.issue(6)
    rows = [stage.row(position, curriculum, KEY) for position in positions]
    train(stage, curriculum, 30)
    assert [stage.row(position, curriculum, KEY) for position in positions] == rows
    state = RunState(stages={"rl": stage})
    resumed = parse_state(state.to_stored(SPEC).model_dump_json(), SPEC).stages["rl"]
    assert [resumed.row(position, curriculum, KEY) for position in positions] == rows
    # Chosen now, they would be others: much is known of the rows by now.
    anew = [choose_row(curriculum, stage.order, p, stage.statistics, KEY) for p in positions]
    assert anew != rows


def test_a_state_of_an_earlier_release_has_no_results() -> None:
    stored = json.loads(RunState(stages={"rl": make_stage()}).to_stored(SPEC).model_dump_json())
    del stored["stages"]["rl"]["chosen"], stored["stages"]["rl"]["results"]
    assert parse_state(json.dumps(stored), SPEC).stages["rl"].statistics.totals() == {}


def test_the_certificate_counts_results_from_the_step_log() -> None:
    stage = make_stage()
    results = (PromptResult(7, 8, 3), PromptResult(9, 8, 0))
    record = StepRecord("rl", 1, tuple(stage.ledger.issue(2)), {}, results)
    stage.close(record)
    assert count_differences(stage.statistics, results) == 0
    assert summarize(stage.statistics) == {"prompts_seen": 2, "attempts": 16, "successes": 3}
    assert count_differences(stage.statistics, results[:1]) == 1
    certificate = certify(stage.ledger, [record])
    assert certificate.holds
    assert not replace(certificate, miscounted=1).holds
