"""A hundred thousand answers through a real reward service, hostile ones among them: what hangs,
leaks or grows?

One JSON line per tenth: rate, memory of the service (resident, its processes together), processes
alive. The last line counts verdicts by outcome, verdicts later than their deadline by more than 0.3
s, internal errors, processes left behind. The verdict cache holds one entry, so that every answer
is graded.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
from reward_inputs import Pair, data_dir, hostile_responses, realistic_pairs

from services.api.embedded.ports import free_ports
from services.common.codec import verdict_from_pb
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.rpc.client import call, channel, probe
from services.common.trajectory import Outcome, Verdict

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = f"127.0.0.1:{free_ports(1)[0]}"
BATCH = 1000
TIMEOUT_S = 3.0
LATE_MS = 1000 * TIMEOUT_S + 300
HOSTILE_SHARE = 0.01


def start() -> "subprocess.Popen[bytes]":
    """The service as a process of its own, healthy."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DIRL_REWARD_LISTEN": ADDRESS,
        "DIRL_REWARD_WORKERS": "2",
        "DIRL_REWARD_CACHE_SIZE": "1",
        "DIRL_LOG_LEVEL": "error",
    }
    service = subprocess.Popen([sys.executable, "-m", "services.reward"], env=environment, cwd=ROOT)
    while not probe(ADDRESS, 1.0):
        if service.poll() is not None:
            sys.exit(f"the reward service ended with {service.returncode}")
        time.sleep(0.1)
    return service


def batch_of(pairs: list[Pair], rng: random.Random, hostile: list[str]) -> list[Pair]:
    """Random pairs, now and then with a hostile response."""
    chosen = rng.choices(pairs, k=BATCH)
    return [
        (reference_answer, rng.choice(hostile) if rng.random() < HOSTILE_SHARE else text)
        for reference_answer, text in chosen
    ]


def grade(stub: reward_pb2_grpc.RewardServiceStub, pairs: list[Pair]) -> list[Verdict]:
    """One call."""
    items = [
        reward_pb2.VerifyItem(
            reference_answer=reference_answer, response=text, finish_reason="stop"
        )
        for reference_answer, text in pairs
    ]
    request = reward_pb2.VerifyRequest(
        items=items, graders=["accuracy"], profile="rl", timeout_s=TIMEOUT_S
    )
    return [
        verdict_from_pb(verdict)
        for verdict in call(stub.Verify, request, timeout_s=300, what="Verify").verdicts
    ]


def family(service: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The service and its processes."""
    root = psutil.Process(service.pid)
    return [root, *root.children(recursive=True)]


def soak(service: "subprocess.Popen[bytes]", total: int) -> list[psutil.Process]:
    """Grade, and report; the processes that were alive at the end."""
    rng, pairs = random.Random(0), realistic_pairs(3000)
    hostile = [
        text for text in hostile_responses() if not re.search("[\ud800-\udfff]", text)
    ]  # no UTF-8
    outcomes: Counter[str] = Counter()
    late = internal = wrong = done = 0
    latest_ms = 0.0
    started = time.monotonic()
    with channel(ADDRESS) as connection:
        stub = reward_pb2_grpc.RewardServiceStub(connection)
        while done < total:
            verdicts = grade(stub, batch_of(pairs, rng, hostile))
            done += len(verdicts)
            outcomes.update(verdict.outcome.value for verdict in verdicts)
            late += sum(verdict.wall_ms > LATE_MS for verdict in verdicts)
            latest_ms = max(latest_ms, *(verdict.wall_ms for verdict in verdicts))
            internal += sum(verdict.reason == "internal_error" for verdict in verdicts)
            wrong += sum(verdict.outcome is Outcome.UNVERIFIABLE for verdict in verdicts)
            if done % max(BATCH, total // 10) == 0:
                members = family(service)
                rss = sum(member.memory_info().rss for member in members) / 2**20
                line = {"done": done, "per_second": round(done / (time.monotonic() - started), 1)}
                print(
                    json.dumps({**line, "rss_mb": round(rss, 1), "processes": len(members)}),
                    flush=True,
                )
    summary = {
        "total": done,
        "outcomes": outcomes,
        "late": late,
        "internal_errors": internal,
        "unverifiable": wrong,
    }
    print(
        json.dumps(
            {
                **summary,
                "latest_ms": round(latest_ms, 1),
                "seconds": round(time.monotonic() - started, 1),
            }
        ),
        flush=True,
    )
    return family(service)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2,000 answers")
    total = 2000 if parser.parse_args().quick else 100_000
    data_dir()
    service = start()
    try:
        members = soak(service, total)
    finally:
        service.terminate()
        service.wait(30)
    _, alive = psutil.wait_procs(members, timeout=10)
    print(json.dumps({"processes_left": len(alive)}))


if __name__ == "__main__":
    main()
