"""The supervisor's child processes: real ones, small programs in the learner's place."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.attempt_result import AttemptResult, AttemptState
from services.common.errors import PlatformError
from services.trainer.learner.request import (
    LearnerRequest,
    read_result,
    request_path,
    save_result,
)
from services.trainer.service.supervisor import LearnerSupervisor
from tests.support.learners import learner_request
from tests.support.trainer import is_alive, wait_until

SPEC = {"model": "m", "method": "sft", "training_file": "rows.jsonl"}

# Each program gets the request's path as its argument and says in `ready` that it runs.
PREAMBLE = """
import os, signal, sys, time, subprocess
from pathlib import Path
directory = Path(sys.argv[1]).parent
def ready(text="x"): (directory / "ready.part").write_text(text); (directory / "ready.part").rename(directory / "ready")
def result(text): (directory / "attempt-0001.result.json").write_text(text)
"""
SLEEP = "ready(); time.sleep(600)"
STOP_CLEANLY = """
def on_term(*_): result('{"state":"stopped"}'); sys.exit(0)
signal.signal(signal.SIGTERM, on_term); ready(); time.sleep(600)
"""
IGNORE_SIGTERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(600)"
LEAVE_A_CHILD = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]); ready(str(child.pid)); time.sleep(600)
"""
LEAVE_A_CHILD_AND_END = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]); ready(str(child.pid))
result('{"state":"succeeded"}')
"""
SUCCEED = """result('{"state":"succeeded"}'); ready()"""
FAIL = """
result('{"state":"failed","error_code":"nan_loss","error_message":"no","retryable":false}'); ready()
"""
WAIT_FOR_A_FOLLOWER = """
rank = int(os.environ["DIRL_LEARNER_RANK"])
if rank == 1: (directory / "follower").write_text(str(os.getpid()))
while not (directory / "follower").exists() or not (directory / "follower").read_text(): time.sleep(0.01)
"""
FOLLOWER_SLEEPS = (
    WAIT_FOR_A_FOLLOWER
    + """
if rank == 0: ready((directory / "follower").read_text())
time.sleep(600)
"""
)
FOLLOWER_FAILS = (
    WAIT_FOR_A_FOLLOWER
    + """
if rank == 1:
    result('{"state":"failed","error_code":"nan_loss","error_message":"no","retryable":false}')
    sys.exit(1)
ready(); time.sleep(600)
"""
)
RANK_0_ENDS = (
    WAIT_FOR_A_FOLLOWER
    + """
if rank == 1: time.sleep(600)
result('{"state":"succeeded"}'); ready((directory / "follower").read_text())
"""
)
FOLLOWER_ABORTS_AFTER_THE_END = (
    WAIT_FOR_A_FOLLOWER
    + """
if rank == 0:
    result('{"state":"succeeded"}'); ready(); time.sleep(600)
while not (directory / "ready").exists(): time.sleep(0.01)
os.abort()
"""
)
CRASH = "ready(); sys.exit('Traceback: something broke')"


@pytest.fixture
def supervisors() -> Iterator[list[LearnerSupervisor]]:
    """Supervisors to be shut down."""
    made: list[LearnerSupervisor] = []
    yield made
    for supervisor in made:
        supervisor.shutdown(0)


def supervisor_of(made: list[LearnerSupervisor], program: str) -> LearnerSupervisor:
    made.append(LearnerSupervisor([sys.executable, "-c", PREAMBLE + program]))
    return made[-1]


def request_in(job_dir: Path, **changes: Any) -> Any:
    return learner_request(job_dir, SPEC, **changes)


def started(supervisor: LearnerSupervisor, job_dir: Path) -> tuple[int, str]:
    """Process id of a learner that runs, and what it said."""
    pid = supervisor.start(request_in(job_dir))
    ready = job_dir / "requests" / "ready"
    wait_until(ready.exists, "the program runs")
    return pid, ready.read_text()


def wait_for_end(supervisor: LearnerSupervisor) -> None:
    wait_until(lambda: supervisor.status().state != "running", "the learner's end", 30)


def test_a_killed_learner_is_a_lost_worker_and_may_be_tried_again(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, SLEEP)
    pid, _ = started(supervisor, tmp_path)

    os.kill(pid, signal.SIGKILL)
    wait_for_end(supervisor)

    status = supervisor.status()
    assert (status.state, status.result.error_code, status.result.retryable) == (
        "failed",
        "worker_lost",
        True,
    )
    assert "SIGKILL" in status.result.error_message


def test_a_learner_that_was_asked_to_stop_says_so_itself(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, STOP_CLEANLY)
    pid, _ = started(supervisor, tmp_path)

    assert supervisor.stop("job_1", 1, grace_s=30)
    wait_for_end(supervisor)

    assert supervisor.status().state == "stopped"
    assert not is_alive(pid)


def test_what_a_learner_said_at_its_end_outlives_its_supervisor(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, STOP_CLEANLY)
    started(supervisor, tmp_path)
    supervisor.shutdown(grace_s=30)

    restarted = supervisor_of(supervisors, SLEEP)

    left = restarted.status_of("job_1", 1, tmp_path)
    assert (left.job_id, left.attempt, left.state) == ("job_1", 1, "stopped")
    assert restarted.status_of("job_1", 2, tmp_path).state == "idle"


def test_a_learner_that_does_not_stop_in_time_is_killed(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, IGNORE_SIGTERM)
    started(supervisor, tmp_path)

    supervisor.stop("job_1", 1, grace_s=0.05)
    wait_for_end(supervisor)

    status = supervisor.status()
    assert status.state == "stopped"
    assert "before it could write a checkpoint" in status.result.error_message


def test_a_second_stop_may_shorten_the_grace(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, IGNORE_SIGTERM)
    started(supervisor, tmp_path)

    supervisor.stop("job_1", 1, grace_s=600)
    supervisor.stop("job_1", 1, grace_s=0)
    wait_for_end(supervisor)

    assert supervisor.status().state == "stopped"


@pytest.mark.parametrize("program", [LEAVE_A_CHILD, LEAVE_A_CHILD_AND_END])
def test_the_whole_process_group_goes_with_the_learner(
    supervisors: list[LearnerSupervisor], tmp_path: Path, program: str
) -> None:
    supervisor = supervisor_of(supervisors, program)
    pid, child = started(supervisor, tmp_path)

    if program is LEAVE_A_CHILD:
        os.kill(pid, signal.SIGKILL)
    wait_for_end(supervisor)

    wait_until(lambda: not _runs(int(child)), "the child's end", 10)


def _runs(pid: int) -> bool:
    """A killed orphan may stay a zombie for as long as no process reaps it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_result_of_the_learner_is_what_is_reported(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, FAIL)
    started(supervisor, tmp_path)
    wait_for_end(supervisor)

    end = supervisor.status().result
    assert (end.state, end.error_code, end.error_message, end.retryable) == (
        "failed",
        "nan_loss",
        "no",
        False,
    )


def test_a_learner_that_ends_without_a_result_failed_and_its_log_is_quoted(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, CRASH)
    started(supervisor, tmp_path)
    wait_for_end(supervisor)

    end = supervisor.status().result
    assert (end.state, end.error_code) == ("failed", "internal")
    assert "something broke" in end.error_message


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [(os.EX_CANTCREAT, "disk_full", False), (os.EX_IOERR, "storage_unavailable", True)],
)
def test_a_learner_that_could_not_write_its_result_says_so_by_its_exit_status(
    supervisors: list[LearnerSupervisor], tmp_path: Path, status: int, code: str, retryable: bool
) -> None:
    supervisor = supervisor_of(supervisors, f"ready(); sys.exit({status})")
    started(supervisor, tmp_path)
    wait_for_end(supervisor)

    result = supervisor.status().result
    assert (result.error_code, result.retryable) == (code, retryable)
    assert str(tmp_path) in result.error_message


def test_a_result_that_cannot_be_read_is_a_fault_of_the_volume_and_not_a_learner_that_runs_for_ever(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, "result('{'); ready()")
    started(supervisor, tmp_path)
    wait_for_end(supervisor)

    assert supervisor.status().result.error_code == "storage_unavailable"


def test_what_a_killed_learner_left_of_a_checkpoint_is_removed(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    leftover = tmp_path / "checkpoints" / ".partial-step-000003"
    supervisor = supervisor_of(
        supervisors, f"Path({str(leftover)!r}).mkdir(parents=True); ready(); time.sleep(600)"
    )
    pid, _ = started(supervisor, tmp_path)
    assert leftover.is_dir()

    os.kill(pid, signal.SIGKILL)

    wait_for_end(supervisor)
    wait_until(lambda: not leftover.exists(), "the partial checkpoint is removed", 10)


def test_a_learner_that_cannot_be_started_for_want_of_space_says_so(
    supervisors: list[LearnerSupervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_self: LearnerRequest) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LearnerRequest, "save", no_space)

    with pytest.raises(PlatformError) as caught:
        supervisor_of(supervisors, SUCCEED).start(request_in(tmp_path))

    assert caught.value.code == "disk_full"


def test_starting_the_same_attempt_again_changes_nothing(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, SLEEP)
    pid, _ = started(supervisor, tmp_path)

    assert supervisor.start(request_in(tmp_path)) == pid


def test_an_ended_attempt_is_not_started_again(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, SUCCEED)
    pid, _ = started(supervisor, tmp_path)
    wait_for_end(supervisor)

    assert supervisor.start(request_in(tmp_path)) == pid
    assert supervisor.status().state == "succeeded"


def test_a_second_job_finds_the_trainer_busy(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, SLEEP)
    started(supervisor, tmp_path / "one")

    for other in (
        request_in(tmp_path / "two", job_id="job_2"),
        request_in(tmp_path / "one", attempt=2),
    ):
        with pytest.raises(PlatformError) as caught:
            supervisor.start(other)
        assert caught.value.code == "busy"


def test_an_older_attempt_is_stale(supervisors: list[LearnerSupervisor], tmp_path: Path) -> None:
    supervisor = supervisor_of(supervisors, SUCCEED)
    supervisor.start(request_in(tmp_path, attempt=2))
    wait_for_end(supervisor)

    with pytest.raises(PlatformError) as caught:
        supervisor.start(request_in(tmp_path, attempt=1))
    assert caught.value.code == "stale_attempt"


def test_an_attempt_that_another_supervisor_started_is_lost_not_started_twice(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    request_in(tmp_path).save()

    with pytest.raises(PlatformError) as caught:
        supervisor_of(supervisors, SLEEP).start(request_in(tmp_path))
    assert (caught.value.code, caught.value.retryable) == ("worker_lost", True)


def test_stopping_what_does_not_run_stops_nothing(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, SLEEP)
    assert not supervisor.stop("job_1", 1, grace_s=0)
    pid, _ = started(supervisor, tmp_path)

    assert not supervisor.stop("job_1", 2, grace_s=0)
    assert not supervisor.stop("job_2", 1, grace_s=0)

    assert is_alive(pid)
    assert supervisor.status().state == "running"


def test_shutdown_leaves_no_learner(tmp_path: Path) -> None:
    supervisor = supervisor_of([], IGNORE_SIGTERM)
    pid, _ = started(supervisor, tmp_path)

    supervisor.shutdown(grace_s=0.05)

    assert not is_alive(pid)


def test_the_status_before_any_job_is_idle() -> None:
    supervisor = LearnerSupervisor()

    status = supervisor.status()

    assert (status.state, status.job_id, status.attempt) == ("idle", "", 0)
    assert status.rss_bytes > 0
    supervisor.shutdown(0)


def test_memory_counts_the_learner_and_its_children(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    idle = LearnerSupervisor()
    alone = idle.status().rss_bytes
    idle.shutdown(0)
    supervisor = supervisor_of(supervisors, LEAVE_A_CHILD)
    started(supervisor, tmp_path)

    wait_until(lambda: supervisor.status().rss_bytes > alone + 2**20, "memory of the children")


def test_the_request_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = request_in(tmp_path, redis_url="redis://:secret@host/0").save()

    assert path == request_path(tmp_path, 1)
    assert path.stat().st_mode & 0o077 == 0


def test_a_result_survives_the_way_through_its_file(tmp_path: Path) -> None:
    request_in(tmp_path).save()
    error = PlatformError("oom_train", "too large")

    save_result(tmp_path, 1, AttemptResult.from_error(error))

    assert read_result(tmp_path, 1) == AttemptResult(
        AttemptState.FAILED, "oom_train", error.message, retryable=True
    )


def two_ranks(job_dir: Path) -> Any:
    return learner_request(job_dir, {**SPEC, "resources": {"trainer_ranks": 2}})


def started_ranks(supervisor: LearnerSupervisor, job_dir: Path) -> tuple[int, int]:
    """Process ids of rank 0 and rank 1."""
    pid = supervisor.start(two_ranks(job_dir))
    wait_until((job_dir / "requests" / "ready").exists, "the ranks run")
    return pid, int((job_dir / "requests" / "follower").read_text())


def test_a_rank_that_is_killed_ends_all_of_them_as_a_lost_worker(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, FOLLOWER_SLEEPS)
    leader, follower = started_ranks(supervisor, tmp_path)

    os.kill(follower, signal.SIGKILL)
    wait_for_end(supervisor)

    status = supervisor.status()
    assert (status.state, status.result.error_code, status.result.retryable) == (
        "failed",
        "worker_lost",
        True,
    )
    assert not is_alive(leader)


def test_a_rank_that_fails_says_why_and_ends_all_of_them(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, FOLLOWER_FAILS)
    leader = supervisor.start(two_ranks(tmp_path))
    wait_for_end(supervisor)

    assert supervisor.status().result.error_code == "nan_loss"
    assert not is_alive(leader)


def test_a_rank_that_dies_after_the_result_was_written_does_not_change_it(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(supervisors, FOLLOWER_ABORTS_AFTER_THE_END)
    supervisor.start(two_ranks(tmp_path))
    wait_for_end(supervisor)

    assert supervisor.status().state == "succeeded"


def test_no_rank_outlives_rank_0(supervisors: list[LearnerSupervisor], tmp_path: Path) -> None:
    supervisor = supervisor_of(supervisors, RANK_0_ENDS)
    _, follower = started_ranks(supervisor, tmp_path)
    wait_for_end(supervisor)

    assert supervisor.status().state == "succeeded"
    wait_until(lambda: not is_alive(follower), "the end of rank 1")


def test_ranks_that_do_not_stop_in_time_are_all_killed(
    supervisors: list[LearnerSupervisor], tmp_path: Path
) -> None:
    supervisor = supervisor_of(
        supervisors, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOLLOWER_SLEEPS
    )
    leader, follower = started_ranks(supervisor, tmp_path)

    supervisor.stop("job_1", 1, grace_s=0.05)
    wait_for_end(supervisor)

    assert supervisor.status().state == "stopped"
    wait_until(lambda: not is_alive(leader) and not is_alive(follower), "the end of both ranks")
