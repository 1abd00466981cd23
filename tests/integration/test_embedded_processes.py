"""The supervisor with small real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.api.embedded.probes import log_says
from services.api.embedded.processes import ProcessSupervisor, Service
from services.common.errors import PlatformError

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


def _service(logs: Path, program: str, name: str = "one", timeout_s: float = 30.0) -> Service:
    command = (sys.executable, "-c", program)
    ready = log_says(logs / f"{name}.log", "up")
    return Service(name, command, dict(os.environ), ready, start_timeout_s=timeout_s)


def test_a_service_that_ends_before_it_is_ready_fails_with_the_end_of_its_log(
    tmp_path: Path,
) -> None:
    with (
        ProcessSupervisor(tmp_path, print) as supervisor,
        pytest.raises(
            PlatformError, match=r"one ended with exit code 3 before it was ready(.|\n)*no luck"
        ),
    ):
        supervisor.start(_service(tmp_path, "import sys; print('no luck'); sys.exit(3)"))


def test_a_service_that_is_not_ready_in_time_fails_and_is_stopped(tmp_path: Path) -> None:
    with (
        ProcessSupervisor(tmp_path, print) as supervisor,
        pytest.raises(PlatformError, match="one was not ready within 1 s"),
    ):
        supervisor.start(_service(tmp_path, "import time; time.sleep(600)", timeout_s=1.0))

    assert supervisor.pids() == {}


def test_a_service_that_ignores_the_request_to_end_is_killed_with_what_it_started(
    tmp_path: Path,
) -> None:
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); {DEAF}"
    reports: list[str] = []
    supervisor = ProcessSupervisor(tmp_path, reports.append)
    supervisor.start(_service(tmp_path, program))
    _until(lambda: (tmp_path / "one.log").read_text().count("up") == 2)
    leader = psutil.Process(supervisor.pids()["one"])
    family = [leader, *leader.children()]

    supervisor.stop(timeout_s=0.5)

    assert len(family) == 2
    _until(lambda: not any(_lives(process) for process in family))
    assert reports == ["one did not stop within 0.5 s and was killed"]


def test_an_answer_at_its_address_makes_no_service_ready_that_has_not_said_so_itself(
    tmp_path: Path,
) -> None:
    ready = log_says(tmp_path / "one.log", "one ready", lambda: True)
    assert not ready()

    (tmp_path / "one.log").write_text("one ready\n")

    assert ready()
    assert not log_says(tmp_path / "one.log", "one ready")()  # said by an earlier start
    assert not log_says(tmp_path / "two.log", "one ready", lambda: False)()


def test_services_stop_in_the_opposite_order_of_their_start(tmp_path: Path) -> None:
    farewell = (
        "import signal, sys, time; "
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / 'order')!r}, 'a').write(NAME), sys.exit())); "
        "print('up', flush=True); time.sleep(600)"
    )
    with ProcessSupervisor(tmp_path, print) as supervisor:
        for name in "abc":
            supervisor.start(_service(tmp_path, farewell.replace("NAME", repr(name)), name))

    assert (tmp_path / "order").read_text() == "cba"


def test_a_service_that_crashes_again_and_again_is_started_after_growing_pauses(
    tmp_path: Path,
) -> None:
    reports: list[str] = []
    with ProcessSupervisor(tmp_path, reports.append) as supervisor:
        supervisor.start(
            _service(tmp_path, "import time; print('up', flush=True); time.sleep(0.5)")
        )

        _until(lambda: sum("ended (exit code 0)" in line for line in reports) >= 2)

    pauses = [
        line.split("restarting in ")[1].split(" s")[0] for line in reports if "restarting" in line
    ]
    assert pauses[:2] == ["0.5", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux only")
def test_services_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from services.api.embedded.probes import log_says
from services.api.embedded.processes import Service, ProcessSupervisor

logs = Path({str(tmp_path)!r})
supervisor = ProcessSupervisor(logs, print)
command = (sys.executable, "-c", {SLEEPER!r})
supervisor.start(Service("one", command, dict(os.environ), log_says(logs / "one.log", "up")))
print(supervisor.pids()["one"], flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        service = psutil.Process(int(owner.stdout.readline()))
        assert _lives(service)

        owner.send_signal(signal.SIGKILL)

    _until(lambda: not _lives(service))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
