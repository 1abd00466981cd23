"""The certificate: computed from what the steps logged, so that a planted loss or duplicate makes
it fail.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.trainer.learner.ledger import Certificate, PromptLedger, StepRecord, certify
from services.trainer.learner.step_log import StepLog, surviving_records

Records = list[StepRecord]


def record(
    step: int, trained: tuple[int, ...], dropped: dict[int, str] | None = None
) -> StepRecord:
    return StepRecord(stage="rl", step=step, trained=trained, dropped=dropped or {})


def three_steps() -> tuple[PromptLedger, Records]:
    """Trained 0 1 | 3 4 | 5 6; dropped 2; 7 8 issued and open."""
    ledger = PromptLedger()
    records = [record(1, (0, 1), {2: "zero_variance"}), record(2, (3, 4)), record(3, (5, 6))]
    for item in records:
        ledger.issue(len(item.trained) + len(item.dropped))
        ledger.close(item)
    ledger.issue(2)
    return ledger, records


def test_the_certificate_of_an_honest_run_holds() -> None:
    certificate = certify(*three_steps())

    assert certificate == Certificate(
        issued=9, trained=6, dropped={"zero_variance": 1}, open=2, lost=0, trained_twice=0
    )
    assert certificate.holds


def plant_a_duplicate_in_one_step(records: Records) -> None:
    records[1] = record(2, (3, 3, 4))


def plant_a_duplicate_across_steps(records: Records) -> None:
    records[2] = record(3, (5, 6, 0))


def plant_a_loss(records: Records) -> None:
    records[1] = record(2, (3,))


def plant_a_lost_drop(records: Records) -> None:
    records[0] = record(1, (0, 1))


def plant_a_training_of_an_open_position(records: Records) -> None:
    records[2] = record(3, (5, 6, 7))


def plant_a_training_of_a_dropped_position(records: Records) -> None:
    records[1] = record(2, (2, 3, 4))


@pytest.mark.parametrize(
    ("plant", "lost", "trained_twice"),
    [
        (plant_a_duplicate_in_one_step, 0, 1),
        (plant_a_duplicate_across_steps, 0, 1),
        (plant_a_loss, 1, 0),
        (plant_a_lost_drop, 1, 0),
        (plant_a_training_of_an_open_position, 0, 1),
        (plant_a_training_of_a_dropped_position, 0, 1),
    ],
)
def test_a_planted_fault_in_the_log_shows(
    plant: Callable[[Records], None], lost: int, trained_twice: int
) -> None:
    ledger, records = three_steps()

    plant(records)

    certificate = certify(ledger, records)
    assert (certificate.lost, certificate.trained_twice, certificate.holds) == (
        lost,
        trained_twice,
        False,
    )


def test_a_position_that_the_ledger_closed_without_any_step_is_lost() -> None:
    ledger, records = three_steps()
    ledger.close(record(3, (7,)))

    certificate = certify(ledger, records)

    assert (certificate.lost, certificate.holds) == (1, False)


def test_a_position_that_a_damaged_ledger_forgot_is_lost() -> None:
    ledger, records = three_steps()
    stored = ledger.to_json()

    certificate = certify(PromptLedger.from_json({**stored, "open": [[8, 8]]}), records)

    assert (certificate.lost, certificate.open, certificate.holds) == (1, 1, False)


def test_certificates_of_stages_add_up() -> None:
    certificate = certify(*three_steps()) + certify(*three_steps())

    assert (certificate.issued, certificate.trained, certificate.dropped) == (
        18,
        12,
        {"zero_variance": 2},
    )
    assert certificate.holds


def log_steps(job_dir: Path, attempt: int, resumed_from: int, steps: range) -> None:
    log = StepLog(job_dir, attempt, resumed_from=resumed_from)
    for step in steps:
        log.append(record(step, (10 * attempt + step,)), [])
    log.close()


def test_steps_after_the_checkpoint_are_undone_and_said_so(tmp_path: Path) -> None:
    log_steps(tmp_path, 1, 0, range(1, 6))

    records, undone = surviving_records(tmp_path, before_attempt=2, resumed_from=3)

    assert [item.step for item in records] == [1, 2, 3]
    assert undone == [4, 5]


def test_the_lineage_goes_through_every_resume(tmp_path: Path) -> None:
    log_steps(tmp_path, 1, 0, range(1, 6))  # 4 and 5 undone by attempt 2
    log_steps(tmp_path, 2, 3, range(4, 9))  # 7 and 8 undone by attempt 3
    log_steps(tmp_path, 3, 6, range(7, 9))

    records, undone = surviving_records(tmp_path, before_attempt=4, resumed_from=8)

    assert [item.trained[0] for item in records] == [11, 12, 13, 24, 25, 26, 37, 38]
    assert undone == []


def test_an_attempt_that_falls_back_behind_an_earlier_resume_undoes_both(tmp_path: Path) -> None:
    log_steps(tmp_path, 1, 0, range(1, 6))
    log_steps(tmp_path, 2, 4, range(5, 8))

    records, undone = surviving_records(tmp_path, before_attempt=3, resumed_from=2)

    assert [item.trained[0] for item in records] == [11, 12]
    assert undone == [3, 4, 5, 6, 7]


def test_a_line_that_a_killed_learner_left_unfinished_is_not_a_step(tmp_path: Path) -> None:
    log_steps(tmp_path, 1, 0, range(1, 3))
    with (tmp_path / "journal" / "steps-0001.jsonl").open("a") as file:
        file.write('{"stage":"rl","step":3,"tra')

    records, _ = surviving_records(tmp_path, before_attempt=2, resumed_from=9)

    assert [item.step for item in records] == [1, 2]


def test_attempts_that_never_trained_leave_no_trace(tmp_path: Path) -> None:
    log_steps(tmp_path, 1, 0, range(1, 3))
    log_steps(tmp_path, 3, 2, range(0))

    records, undone = surviving_records(tmp_path, before_attempt=4, resumed_from=2)

    assert ([item.step for item in records], undone) == ([1, 2], [])


def test_a_training_that_the_ledger_never_issued_is_counted_as_issued() -> None:
    ledger, records = three_steps()
    records[2] = record(3, (5, 6, 100), {101: "stale"})

    certificate = certify(ledger, records)

    assert (certificate.issued, certificate.trained) == (11, 7)
    assert certificate.dropped == {"zero_variance": 1, "stale": 1}


def test_the_certificate_of_a_job_is_the_sum_of_its_stages() -> None:
    sft = Certificate(issued=10, trained=5, dropped={"a": 1}, open=2, lost=1, trained_twice=3)
    rl = Certificate(
        issued=20, trained=9, dropped={"a": 2, "b": 4}, open=3, lost=2, trained_twice=4
    )

    assert sft + rl == Certificate(
        issued=30, trained=14, dropped={"a": 3, "b": 4}, open=5, lost=3, trained_twice=7
    )
