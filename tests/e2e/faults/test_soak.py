"""A long life of one platform: jobs are submitted, hurt and deleted in a loop, and nothing of them
is left.

`DIRL_SOAK_S` sets the length in seconds; two hours are `DIRL_SOAK_S=7200`.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import cycle
from random import Random
from statistics import median

import httpx
import psutil
import pytest
from sqlalchemy import create_engine, func, select

from services.api.db.base import Base
from tests.support.faults import ENDS, Arena, HurtJob, kill, patiently, stopped

SOAK_S = float(os.environ.get("DIRL_SOAK_S", "600"))
LOG = logging.getLogger("soak")
"""`--log-cli-level=info` shows it."""
KEPT_TABLES = {"audit_log", "heartbeats", "idempotency_keys"}
"""Tables that keep their rows when jobs are deleted, for a time of their own."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SOAK_S + 900)]


@dataclass(frozen=True)
class Usage:
    """What the platform holds while no job exists."""

    processes: int
    memory_mib: float
    descriptors: int
    redis_keys: int
    rows: int
    files: int


def measure(hurt: Arena) -> Usage:
    """Everything of the platform's processes, its servers and its data directory."""
    roots = [psutil.Process(pid) for pid in hurt.platform.pids().values()]
    family = [each for root in roots for each in (root, *root.children(recursive=True))]
    with hurt.redis() as client:
        keys = len(client.keys("*"))
    engine = create_engine(hurt.platform.urls.database)
    with engine.connect() as connection:
        rows = sum(
            connection.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
            if name not in KEPT_TABLES
        )
    engine.dispose()
    data = hurt.platform.data_dir
    return Usage(
        processes=len(family),
        memory_mib=round(sum(each.memory_info().rss for each in family) / 2**20, 1),
        descriptors=sum(each.num_fds() for each in family),
        redis_keys=keys,
        rows=rows,
        files=sum(
            path.is_file()
            for name in ("jobs", "files", "models")
            for path in (data / name).rglob("*")
        ),
    )


def kill_learner(hurt: Arena, _job: HurtJob) -> None:
    for learner in hurt.learners():
        kill(learner)


def kill_service(name: str) -> Callable[[Arena, HurtJob], None]:
    def hurt_service(hurt: Arena, _job: HurtJob) -> None:
        kill(hurt.process(name))
        hurt.await_services(name)

    return hurt_service


def stop_replica(hurt: Arena, _job: HurtJob) -> None:
    with stopped(hurt.process("rollout-1")):
        time.sleep(5)


def cancel(hurt: Arena, job: HurtJob) -> None:
    hurt.api.cancel(job.id)


def export(hurt: Arena, job: HurtJob) -> None:
    """An export and its deletion."""
    newest = max(hurt.api.checkpoints(job.id), key=lambda item: item.step)
    made = hurt.api.export(newest.id)
    deadline = time.monotonic() + 60
    while (made := hurt.api.export_status(made.id)).state not in ("succeeded", "failed"):
        assert time.monotonic() < deadline, made
        time.sleep(0.2)
    if made.model_id is not None:
        httpx.delete(f"{hurt.platform.api_url}/v1/models/{made.model_id}").raise_for_status()


FAULTS: Mapping[str, Callable[[Arena, HurtJob], None]] = {
    "nothing": lambda _hurt, _job: None,
    "learner": kill_learner,
    "rollout-1": kill_service("rollout-1"),
    "reward": kill_service("reward"),
    "worker": kill_service("worker"),
    "recorder": kill_service("recorder"),
    "stopped replica": stop_replica,
    "cancel": cancel,
    "export": export,
}


def run_round(hurt: Arena, fault: Callable[[Arena, HurtJob], None]) -> None:
    """Submit, hurt, await the end, delete."""
    job = hurt.start()
    fault(hurt, job)
    deadline = time.monotonic() + 300
    while (found := job.read()).state not in ENDS:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert found.state in ("succeeded", "cancelled"), found.error
    patiently(lambda: hurt.api.delete(job.id))


def await_rest(hurt: Arena) -> None:
    """Wait until the last job's processes and streams are gone; pruning takes a minute at most."""
    deadline = time.monotonic() + 90
    while hurt.learners() or hurt.leftovers():
        assert time.monotonic() < deadline, (hurt.learners(), hurt.leftovers())
        time.sleep(0.5)


def test_a_platform_that_lives_long_holds_no_more_than_at_its_beginning(hurt: Arena) -> None:
    faults, used, began = cycle(sorted(FAULTS)), [], time.monotonic()
    order = Random(0)
    while time.monotonic() - began < SOAK_S or len(used) < 2 * len(FAULTS):
        names = [next(faults) for _ in FAULTS]
        order.shuffle(names)
        for name in names:
            run_round(hurt, FAULTS[name])
            await_rest(hurt)
            used.append(measure(hurt))
            LOG.info("%.0f s, %s: %s", time.monotonic() - began, name, used[-1])

    # The first round of every fault warms caches and pools up.
    third = max(1, (len(used) - len(FAULTS)) // 3)
    first, last = used[len(FAULTS) : len(FAULTS) + third], used[-third:]
    before, after = (_typical(each) for each in (first, last))
    LOG.info("%d jobs: %s -> %s", len(used), before, after)
    assert after["processes"] <= before["processes"] + 1
    assert after["memory_mib"] <= 1.10 * before["memory_mib"]
    assert after["descriptors"] <= 1.05 * before["descriptors"] + 10
    for name in ("redis_keys", "rows", "files"):
        assert after[name] <= before[name], name


def _typical(used: list[Usage]) -> dict[str, float]:
    return {name: median(asdict(each)[name] for each in used) for name in asdict(used[0])}
