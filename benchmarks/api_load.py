"""The API under load: 1,000 jobs and 10 million metric points in PostgreSQL, everything for real.

One JSON object per line: milliseconds per request (p50, p99) of the list, of metrics thinned by the
database, of trajectories, of events; of a submission; metric points stored per second through the
recorder's own code; and 200 clients that follow the events of a job for a minute, with the number
of events that each missed.

Reads are measured in two ways. At a `rate`, requests are due at fixed moments whether or not
earlier ones are answered, and a latency counts from the moment that its request was due: what users
of a loaded API see. Without a pause, eight clients ask again as soon as they are answered: that is
saturation, where latency is eight times the time of a request, the clients' own included. `share`
is the p99 over that of `/healthz` without a pause, in the same run.

Filling takes minutes: with `--keep DIR` it is done once, and `--only` measures one part of it at a
time.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from services.api.db.database import Database
from services.api.db.job_tables import Attempt
from services.api.embedded.ports import free_ports
from services.api.embedded.processes import ProcessSupervisor
from services.api.embedded.servers import ServerUrls, start_servers
from services.api.embedded.services import (
    choose_addresses,
    migration_command,
    platform_services,
    shared_environment,
)
from services.api.recorder.apply import apply_events
from services.common.events import Event, EventType
from services.common.job_spec import parse_spec

CLIENTS = 8


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    jobs: int
    points: int
    requests: int
    streams: int
    stream_s: float


FULL = Size(jobs=1000, points=10_000_000, requests=1000, streams=200, stream_s=60.0)
QUICK = Size(jobs=30, points=60_000, requests=40, streams=10, stream_s=3.0)
RATE = 50
"""Reads per second."""


EVENTS = 100
"""Of each job."""
PARTS = ("reads", "submit", "ingest", "streams")


@contextmanager
def running_api(directory: Path) -> Iterator[tuple[str, Database]]:
    """Base URL of an API process, and its database; no other service runs."""
    with ProcessSupervisor(directory / "logs", print) as supervisor:
        urls: ServerUrls = start_servers(supervisor, directory, lambda _service: None)
        addresses = choose_addresses(free_ports(1)[0], 1)
        env = shared_environment(directory, urls, addresses)
        subprocess.run(migration_command(), env=env, check=True)
        services = platform_services(env, addresses, supervisor.log_path)
        supervisor.start(next(service for service in services if service.name == "api"))
        database = Database(urls.database)
        yield addresses.api_url, database
        database.dispose()


def fill(database: Database, size: Size) -> list[str]:
    """Ids of jobs with their share of the points and trajectories, written by the database itself."""
    per_job = size.points // size.jobs
    names, steps = 20, max(1, per_job // 20)
    with database.begin() as session:
        spec = parse_spec(
            {"model": "/m", "method": "rl", "training_file": "/rows.jsonl"}
        ).canonical_json()
        session.execute(
            text(
                "INSERT INTO jobs (id, created_at, spec, spec_hash, method, labels, model_path, files, "
                "max_sequence_tokens, rollout_replicas, state, attempt, latest_metrics, event_count, lock_token) "
                "SELECT 'job_' || lpad(n::text, 24, '0'), now() - n * interval '1 minute', CAST(:spec AS jsonb), 'h', "
                "'rl', '{}', '/m', '{}', 64, 1, 'running', 1, '{}', :events, '' FROM generate_series(1, :jobs) n"
            ),
            {"spec": spec, "jobs": size.jobs, "events": EVENTS},
        )
        session.execute(
            text(
                "INSERT INTO events (job_id, position, attempt, type, time, data) SELECT id, n, 1, 'phase', now(), "
                """'{"phase": "train", "stage": "rl"}' FROM jobs, generate_series(1, :events) n"""
            ),
            {"events": EVENTS},
        )
        session.execute(
            text(
                "INSERT INTO attempts (id, job_id, number, state, trainer_address, rollout_addresses, last_event_seq, "
                "events_complete, reported_event_seq, created_at) "
                "SELECT 'att_' || id, id, 1, 'running', '127.0.0.1:9', '{}', 0, false, 0, now() FROM jobs"
            )
        )
        # In the order of the primary key, which is several times as fast.
        session.execute(
            text(
                "INSERT INTO metrics (job_id, name, attempt, step, value) SELECT id, name, 1, step, random() FROM "
                "(SELECT id, 'metric/' || lpad(n::text, 2, '0') AS name FROM jobs, generate_series(1, :names) n "
                "ORDER BY id, name) AS series, generate_series(1, :steps) step"
            ),
            {"names": names, "steps": steps},
        )
        session.execute(
            text(
                "INSERT INTO trajectory_groups (group_id, job_id, attempt, step, purpose, disposition, outcomes, "
                "max_reward, payload, created_at) SELECT 'grp_' || substr(id, 5) || '_' || step, id, 1, step, 'train', "
                "'trained', '{correct,incorrect}', 1.0, CAST(:payload AS jsonb), now() "
                "FROM jobs, generate_series(1, 20) step"
            ),
            {"payload": json.dumps({"group": _group(), "advantages": [1.0, -1.0]})},
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return job_ids(database)


def job_ids(database: Database) -> list[str]:
    """The jobs that were filled in."""
    with database.begin() as session:
        return list(
            session.execute(text("SELECT id FROM jobs WHERE spec_hash = 'h' ORDER BY id")).scalars()
        )


def _group() -> dict[str, Any]:
    """Two responses of 200 tokens."""
    response = {
        "trajectory_id": "traj_x_0",
        "response_index": 0,
        "text": "x" * 600,
        "visible_len": 200,
        "num_steps": 100,
        "num_forwards": 120,
        "finish_reason": "stop",
        "weight_version": 1,
        "token_ids": list(range(200)),
        "unmask_step": list(range(200)),
        "logprobs": [-0.5] * 200,
        "confidences": [0.9] * 200,
        "verdict": {"outcome": "correct", "rewards": {"accuracy": 1.0}},
    }
    return {"group_id": "grp_x", "reference_answer": "4", "trajectories": [response, response]}


def measure(url: str, size: Size, path_of: Callable[[int], str]) -> dict[str, float]:
    """p50 and p99 in milliseconds of GET requests by several clients at once."""

    def client(number: int) -> list[float]:
        seconds = []
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            for index in range(size.requests // CLIENTS):
                began = time.perf_counter()
                answer = http.get(path_of(number * 1000 + index))
                seconds.append(time.perf_counter() - began)
                answer.raise_for_status()
        return seconds

    with ThreadPoolExecutor(CLIENTS) as pool:
        seconds = [value for values in pool.map(client, range(CLIENTS)) for value in values]
    return _percentiles(seconds)


def measure_at_rate(url: str, count: int, path_of: Callable[[int], str]) -> dict[str, float]:
    """p50 and p99 in milliseconds of GET requests that are due every 1 / RATE seconds, from when
    they were due.
    """
    clients = threading.local()
    began = time.perf_counter() + 0.1

    def one(number: int) -> float:
        if not hasattr(clients, "http"):
            clients.http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        due = began + number / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        clients.http.get(path_of(number)).raise_for_status()
        return time.perf_counter() - due

    with ThreadPoolExecutor(2 * CLIENTS) as pool:
        return {"rate": RATE, **_percentiles(list(pool.map(one, range(count))))}


def _percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "p50_ms": round(1000 * cuts[49], 2),
        "p99_ms": round(1000 * cuts[98], 2),
        "requests": len(seconds),
    }


def submit(url: str, size: Size, directory: Path) -> dict[str, float]:
    """p50 and p99 of accepted submissions, one after another."""
    rows = directory / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"{n}?", "answer": str(n)}) + "\n" for n in range(100))
    )
    model = directory / "model"
    model.mkdir(exist_ok=True)
    config = {"model_type": "sdar", "block_size": 4, "mask_token_id": 7, "vocab_size": 64}
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    spec = {"model": str(model), "method": "rl", "training_file": str(rows)}
    seconds = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for _ in range(size.requests // CLIENTS):
            began = time.perf_counter()
            http.post("/v1/jobs", json=spec).raise_for_status()
            seconds.append(time.perf_counter() - began)
    return _percentiles(seconds)


def ingest(database: Database, job_id: str, steps: int) -> dict[str, float]:
    """Metric points per second through the recorder's code, 20 a step, 200 events a transaction."""
    with database.begin() as session:
        first = session.get_one(Attempt, f"att_{job_id}").last_event_seq
    events = [_metrics_event(job_id, first + 1 + n, 1_000_000 + first + n) for n in range(steps)]
    began = time.perf_counter()
    for start in range(0, steps, 200):
        with database.begin() as session:
            apply_events(session, job_id, 1, events[start : start + 200])
    seconds = time.perf_counter() - began
    return {"points": 20 * steps, "points_per_s": round(20 * steps / seconds)}


def _metrics_event(job_id: str, seq: int, step: int) -> Event:
    values = {f"metric/{name:02d}": float(step) for name in range(20)}
    data = {"step": step, "values": values}
    return Event(
        job_id=job_id, attempt=1, seq=seq, type=EventType.METRICS, time=time.time(), data=data
    )


def follow(url: str, database: Database, job_id: str, size: Size) -> dict[str, float]:
    """Clients that follow a job's events while ten a second are recorded; how many events all of
    them missed.
    """
    received: list[set[str]] = [set() for _ in range(size.streams)]
    delays: list[float] = []
    ready, ended = threading.Barrier(size.streams + 1), threading.Event()

    def listen(number: int) -> None:
        headers = {"accept": "text/event-stream"}
        with (
            httpx.Client(base_url=url, timeout=60, trust_env=False) as http,
            http.stream(
                "GET", f"/v1/jobs/{job_id}/events", params={"type": "log"}, headers=headers
            ) as answer,
        ):
            ready.wait()
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    received[number].add(event["id"])
                    delays.append(time.time() - event["time"])
                if ended.is_set() and len(received[number]) >= sent[0]:
                    return

    sent = [0]
    threads = [
        threading.Thread(target=listen, args=(number,), daemon=True)
        for number in range(size.streams)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    with database.begin() as session:
        seq = session.get_one(Attempt, f"att_{job_id}").last_event_seq
    deadline = time.monotonic() + size.stream_s
    while time.monotonic() < deadline:
        seq, sent[0] = seq + 1, sent[0] + 1
        data = {"level": "info", "code": "note", "message": str(seq)}
        event = Event(
            job_id=job_id, attempt=1, seq=seq, type=EventType.LOG, time=time.time(), data=data
        )
        with database.begin() as session:
            apply_events(session, job_id, 1, [event])
        time.sleep(0.1)
    ended.set()
    for thread in threads:
        thread.join(15)
    lost = sum(sent[0] - len(ids) for ids in received)
    return {"streams": size.streams, "events_each": sent[0], "lost": lost, **_percentiles(delays)}


def read_paths(jobs: list[str]) -> dict[str, Callable[[int], str]]:
    """Every read, by the number of its request."""
    return {
        "list": lambda n: f"/v1/jobs?limit=50&after={jobs[n % len(jobs)]}",
        "job": lambda n: f"/v1/jobs/{jobs[n % len(jobs)]}",
        "metrics": lambda n: (
            f"/v1/jobs/{jobs[n % len(jobs)]}/metrics?names=metric/01,metric/02&downsample=200"
        ),
        "trajectories": lambda n: f"/v1/jobs/{jobs[n % len(jobs)]}/trajectories?limit=20",
        "events": lambda n: f"/v1/jobs/{jobs[n % len(jobs)]}/events?limit=100",
    }


def mixed(jobs: list[str]) -> Callable[[int], str]:
    """All reads by turns."""
    paths = list(read_paths(jobs).values())
    return lambda n: paths[n % len(paths)](n)


def reads(url: str, jobs: list[str], size: Size) -> None:
    """Every read at a rate, then without a pause with the bare answer that it is compared with."""
    kinds = read_paths(jobs)
    for kind, path_of in {**kinds, "all by turns": mixed(jobs)}.items():
        told(kind, measure_at_rate(url, size.requests, path_of))
    bare = measure(url, size, lambda _: "/healthz")
    told("healthz", bare)
    for kind, path_of in kinds.items():
        found = measure(url, size, path_of)
        told(kind, {**found, "share": round(found["p99_ms"] / bare["p99_ms"], 1)})


def submit_while_reading(url: str, jobs: list[str], size: Size, directory: Path) -> None:
    """Submissions alone, and while reads come at the rate."""
    told("submit", submit(url, size, directory))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(measure_at_rate, url, size.requests, mixed(jobs))
        told("submit while reading", {"rate": RATE, **submit(url, size, directory)})
        told("reads while submitting", reading.result())


def run(directory: Path, size: Size, parts: Sequence[str]) -> None:
    """Fill the directory's database unless that was done, and measure these parts."""
    with running_api(directory) as (url, database):
        began = time.perf_counter()
        if not (jobs := job_ids(database)):
            jobs = fill(database, size)
            told(
                "fill",
                {
                    "jobs": len(jobs),
                    "points": size.points,
                    "seconds": round(time.perf_counter() - began, 1),
                },
            )
        if "reads" in parts:
            reads(url, jobs, size)
        if "submit" in parts:
            submit_while_reading(url, jobs, size, directory)
        if "ingest" in parts:
            told("ingest", ingest(database, jobs[0], max(200, size.points // 5000)))
        if "streams" in parts:
            told("event_streams", follow(url, database, jobs[1], size))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="fill this directory once, and leave it"
    )
    parser.add_argument("--only", choices=(*PARTS, "fill"), help="measure one part; `fill` none")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory(prefix="dirl-bench-") as name:
        directory = given.keep or Path(name)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        run(directory, size, PARTS if given.only is None else (given.only,))


def told(what: str, results: dict[str, float]) -> None:
    """One line."""
    print(json.dumps({"benchmark": "api_load", "what": what, **results}), flush=True)


if __name__ == "__main__":
    main()
