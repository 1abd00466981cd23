"""A job through HTTP, a real Celery worker and beat, and the recorder; trainer and replica answer
from a script.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.api.adapters.broker import Wakeups
from services.api.client import Json
from services.common.events import EventType
from services.common.streams import EventQueue, connect
from tests.support.control_plane import (
    ScriptedReplica,
    ScriptedTrainer,
    job_body,
    make_settings,
    migrated_database,
    running_api,
    serving,
    until,
    write_model,
)
from tests.support.processes import ROOT, prometheus_samples, running_process
from tests.support.servers import Postgres, free_address

CHECKPOINT = {"step": 4, "stage": "rl", "weight_version": 4, "weight_digest": "d", "bytes": 1}


# The clock of the process is ahead, as that of its host would be; the monotonic clock is not.
AHEAD = """
import datetime, runpy, sys, time_machine
ahead = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=float(sys.argv.pop(1)))
time_machine.travel(ahead, tick=True).start()
runpy.run_module("services.api.scheduler", run_name="__main__", alter_sys=True)
"""


@contextmanager
def celery(
    environment: dict[str, str], log_path: Path, process_name: str, ahead_s: float = 0.0
) -> Iterator[None]:
    """A Celery process; interrupted as a supervisor does, and gone afterwards."""
    module = ["-c", AHEAD, str(ahead_s)] if ahead_s else ["-m", "services.api.scheduler"]
    command = [sys.executable, *module, process_name]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log_path.read_text(), log_path.read_text()


def test_a_job_runs_to_its_end_and_its_checkpoint_is_exported(
    postgres_server: Postgres, redis_url: str, tmp_path: Path
) -> None:
    trainer, replica = ScriptedTrainer(), ScriptedReplica()
    with (
        migrated_database(postgres_server) as url,
        serving(trainer) as trainer_address,
        serving(replica) as replica_address,
        serving(None) as reward_address,
    ):
        settings = make_settings(
            url,
            redis_url,
            tmp_path,
            trainer_addresses=(trainer_address,),
            rollout_addresses=(replica_address,),
            reward_address=reward_address,
        )
        environment = {
            "DIRL_DATABASE_URL": url,
            "DIRL_REDIS_URL": redis_url,
            "DIRL_DATA_DIR": str(tmp_path),
            "DIRL_TRAINER_ADDRESSES": trainer_address,
            "DIRL_ROLLOUT_ADDRESSES": replica_address,
            "DIRL_REWARD_ADDRESS": reward_address,
        }
        metrics_address = free_address()
        with (
            running_process("services.api.recorder", tmp_path / "recorder.log", environment),
            celery(
                {**environment, "DIRL_METRICS_LISTEN": metrics_address},
                tmp_path / "worker.log",
                "worker",
            ),
            celery(environment, tmp_path / "beat.log", "beat"),
            running_api(settings) as (http, _),
        ):
            job_id = http.post("/v1/jobs", json=job_body(tmp_path)).json()["id"]

            def state() -> str:
                return str(http.get(f"/v1/jobs/{job_id}").json()["state"])

            until(lambda: state() == "running", 60)
            queue = EventQueue(connect(redis_url))
            checkpoint = tmp_path / "step-000004"
            checkpoint.mkdir()
            for event in trainer.journal(
                job_id, 1, (EventType.CHECKPOINT, {**CHECKPOINT, "path": str(checkpoint)})
            ):
                queue.send(event)
            until(lambda: len(http.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]) == 1)
            trainer.end("succeeded")
            until(lambda: state() == "succeeded")

            checkpoint_id = http.get(f"/v1/jobs/{job_id}").json()["result_checkpoint"]
            export = http.post(f"/v1/checkpoints/{checkpoint_id}/export").json()
            until(lambda: export["id"] in trainer.exports)
            write_model(Path(trainer.exports[export["id"]]))
            until(lambda: http.get(f"/v1/exports/{export['id']}").json()["state"] == "succeeded")

            assert replica.released == [(job_id, 1)]
            processes = {
                service["kind"]: service["state"]
                for service in http.get("/v1/system").json()["services"]
            }
            assert (processes["scheduler"], processes["recorder"]) == ("up", "up")
            assert [health(name, environment) for name in ("scheduler", "beat", "recorder")] == [
                ""
            ] * 3
            counted = prometheus_samples(metrics_address)
            assert counted["dirl_scheduler_tasks_total{outcome=done,task=dispatch}"] >= 1
            assert counted["dirl_scheduler_task_seconds_count{task=reconcile}"] >= 1
    assert "scheduler ready" in (tmp_path / "worker.log").read_text()


def test_a_scheduler_whose_clock_is_ahead_works_and_says_so(
    postgres_server: Postgres, redis_url: str, tmp_path: Path
) -> None:
    trainer = ScriptedTrainer()
    with (
        migrated_database(postgres_server) as url,
        serving(trainer) as trainer_address,
    ):
        settings = make_settings(url, redis_url, tmp_path, trainer_addresses=(trainer_address,))
        environment = {
            "DIRL_DATABASE_URL": url,
            "DIRL_REDIS_URL": redis_url,
            "DIRL_DATA_DIR": str(tmp_path),
            "DIRL_TRAINER_ADDRESSES": trainer_address,
        }
        log_path = tmp_path / "worker.log"
        with (
            celery(environment, log_path, "worker", ahead_s=600),
            celery(environment, tmp_path / "beat.log", "beat"),
            running_api(settings) as (http, _),
        ):
            body = job_body(tmp_path, method="sft", validation_file=None)
            job_id = http.post("/v1/jobs", json=body).json()["id"]

            def read_job() -> Json:
                return http.get(f"/v1/jobs/{job_id}").json()

            until(lambda: read_job()["state"] == "running", 40)
            # Nothing was heard of the learner for a time that its clock makes of seconds.
            time.sleep(3)
            job = read_job()
            system = http.get("/v1/system").json()["services"]
            trainer.end("succeeded")
            until(lambda: read_job()["state"] == "succeeded")

    assert (job["attempt"], job["stalled"]) == (1, None)
    assert abs(job["started_at"] - time.time()) < 120, "written by the database's clock"
    skews = {service["kind"]: service["clock_skew_s"] for service in system}
    assert 590 < skews["scheduler"] < 605
    assert abs(skews["api"]) < 5
    assert abs(skews["redis"]) < 5
    assert "clock differs" in log_path.read_text()


def health(process_name: str, environment: dict[str, str]) -> str:
    """What the health command of a container says; nothing when all is well."""
    command = [sys.executable, "-m", "services.api.operations.health", process_name]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return done.stderr


def test_the_health_commands_name_what_is_missing(postgres_server: Postgres) -> None:
    api = free_address()
    with migrated_database(postgres_server) as url:
        environment = {"DIRL_DATABASE_URL": url, "DIRL_API_LISTEN": api}
        assert "never" in health("recorder", environment)
        assert api in health("api", environment)


def test_a_wake_up_that_cannot_be_sent_is_not_an_error() -> None:
    Wakeups(f"redis://{free_address()}/0").dispatch()
