"""What 1, 8, 64 and 512 GPUs ask of the other parts: a queueing estimate, checked against the real
verifier pool.

First the service time of comparisons is measured, one at a time. Then groups of responses arrive at
random at a share of what two workers can do; the time that comparisons wait is measured beside the
estimate. Then bytes of a group in Redis and rows in PostgreSQL are counted, and the table is
computed from all of it. What a GPU does is an assumption, given as options.
"""

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reward_inputs import Pair, realistic_pairs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the builders are the tests' own

from services.common.answers.answer_types import infer_answer_type
from services.common.codec import group_to_json, group_to_pb
from services.common.telemetry.logs import configure_logging
from services.common.trajectory import ScoredGroup
from services.reward.comparison_request import ComparisonRequest
from services.reward.equivalence import compare
from services.reward.extraction import Profile, extract
from services.reward.pool import ComparisonResult, Pool, PoolConfig
from tests.support.builders import prompt_task, scored_group, trajectory

WORKERS = 2
GROUP = 16
TIMEOUT_S = 3.0


@dataclass(frozen=True)
class ServiceTime:
    """Of one comparison."""

    mean_s: float
    cv2: float
    """Variance over the square of the mean."""


def say(**line: object) -> None:
    """One JSON object."""
    print(json.dumps(line), flush=True)


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival waits in M/M/c; `load` is arrivals x service time, below
    `servers`.
    """
    terms = [1.0]
    for k in range(1, servers + 1):
        terms.append(terms[-1] * load / k)
    last = terms[-1] * servers / (servers - load)
    return last / (sum(terms[:-1]) + last)


def expected_wait_s(servers: int, rate: float, service: ServiceTime, batch: int) -> float:
    """Mean wait of one item, for batches that arrive at random, `rate` items a second together.

    The wait of a batch is that of M/G/1 (Pollaczek and Khinchine) with the whole batch as the job
    and the servers as one fast one, times Erlang C over the load, as Allen and Cunneen have it;
    exact for one server. Then comes the wait behind the items of the same batch.
    """
    load = rate * service.mean_s / servers
    whole = batch * service.mean_s / servers
    second_moment = whole**2 + batch * service.cv2 * (service.mean_s / servers) ** 2
    before = (
        erlang_c(servers, load * servers) / load * (rate / batch) * second_moment / (2 * (1 - load))
    )
    return before + max(0, batch - servers) / (2 * servers) * service.mean_s


def comparable(pairs: list[Pair]) -> tuple[list[ComparisonRequest], float]:
    """Comparisons that need a worker as the pool gets them, and their share."""
    found = []
    for reference_answer, response in pairs:
        kind = infer_answer_type(reference_answer)
        compared = compare(reference_answer, extract(response, Profile.RL), kind)
        if compared.outcome is None:
            found.append(ComparisonRequest(compared.reference, compared.answer, kind, Profile.RL))
    return found, len(found) / len(pairs)


def run(pool: Pool, pairs: list[ComparisonRequest]) -> list[ComparisonResult]:
    """Grade a batch and wait for it."""
    return [
        f.result()
        for f in pool.submit(pairs, timeout_s=TIMEOUT_S, expires_at=time.monotonic() + 600)
    ]


def measure(pool: Pool, pairs: list[ComparisonRequest]) -> ServiceTime:
    """Service time, with nothing else in the pool."""
    times = [run(pool, [pair])[0].wall_ms / 1000 for pair in pairs]
    mean = statistics.fmean(times)
    return ServiceTime(mean, statistics.pvariance(times) / mean**2)


def offered(
    pool: Pool, pairs: list[ComparisonRequest], rate: float, seconds: float, rng: random.Random
) -> tuple[float, float]:
    """Groups at random times; mean wait and mean service time of their comparisons, in seconds."""
    futures, at, end = [], time.monotonic(), time.monotonic() + seconds
    while at < end:
        time.sleep(max(0.0, at - time.monotonic()))
        batch = rng.choices(pairs, k=GROUP)
        futures += pool.submit(batch, timeout_s=TIMEOUT_S, expires_at=time.monotonic() + 600)
        at += rng.expovariate(rate / GROUP)
    done = [future.result() for future in futures]
    return statistics.fmean(g.queue_ms for g in done) / 1000, statistics.fmean(
        g.wall_ms for g in done
    ) / 1000


def group_of(tokens: int) -> ScoredGroup:
    """A group of GROUP responses of so many tokens each."""
    rng = np.random.default_rng(0)
    responses = tuple(
        trajectory(
            trajectory_id=f"traj_1_1_train_0_0_{index}",
            response_index=index,
            token_ids=rng.integers(0, 150_000, tokens).astype(np.int32),
            unmask_step=rng.integers(1, tokens, tokens).astype(np.int32),
            logprobs=rng.normal(size=tokens).astype(np.float32),
            confidences=rng.random(tokens).astype(np.float32),
            visible_len=tokens,
        )
        for index in range(GROUP)
    )
    return scored_group(trajectories=responses)


def needed_workers(rate: float, service: ServiceTime, most_wait_s: float) -> int:
    """Fewest workers that keep the mean wait within bounds."""
    workers = math.floor(rate * service.mean_s) + 1
    while expected_wait_s(workers, rate, service, GROUP) > most_wait_s:
        workers += 1
    return workers


def table(
    args: argparse.Namespace, service: ServiceTime, share: float, extract_s: float
) -> Iterator[dict[str, object]]:
    """A line for every number of GPUs."""
    group = group_of(args.response_tokens)
    stream_bytes, logged_bytes = (
        len(group_to_pb(group).SerializeToString()),
        len(json.dumps(group_to_json(prompt_task(num_generations=GROUP), group))),
    )
    for gpus in (1, 8, 64, 512):
        jobs = max(1, gpus // args.gpus_per_job)
        rollout_gpus = max(0.5, gpus / 2)
        responses = rollout_gpus * args.tokens_per_s / args.response_tokens
        step_s = args.prompts_per_step * GROUP / (responses / jobs)
        replicas = max(1, int(rollout_gpus / jobs))
        weights = replicas * args.weights_gib * 2**30
        yield {
            "gpus": gpus,
            "jobs": jobs,
            "responses_per_s": round(responses, 1),
            "step_s": round(step_s, 1),
            "reward_workers": needed_workers(responses * share, service, 1.0),
            "reward_extraction_cores": round(responses * extract_s, 2),
            "redis_mb_per_s": round(responses / GROUP * stream_bytes * 2 / 1e6, 2),
            "redis_mb_held": round(
                jobs * (args.staleness + 1) * args.prompts_per_step * stream_bytes / 1e6, 1
            ),
            "postgres_rows_per_s": round(
                jobs * (args.metrics_per_step + args.logged_groups) / step_s, 2
            ),
            "postgres_kb_per_s": round(jobs * args.logged_groups * logged_bytes / step_s / 1e3, 1),
            "weight_gb_per_step_of_a_job": round(weights / 1e9, 1),
            "gbit_per_s_of_a_trainer_for_a_tenth_of_a_step": round(
                weights * 8 / 1e9 / (0.1 * step_s), 1
            ),
        }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument(
        "--tokens-per-s", type=float, default=2500.0, help="assumed, of one rollout GPU"
    )
    parser.add_argument("--response-tokens", type=int, default=1024)
    parser.add_argument("--prompts-per-step", type=int, default=128)
    parser.add_argument("--gpus-per-job", type=int, default=8)
    parser.add_argument("--staleness", type=int, default=1)
    parser.add_argument("--weights-gib", type=float, default=15.3, help="8.2 G parameters in bf16")
    parser.add_argument("--metrics-per-step", type=int, default=60)
    parser.add_argument("--logged-groups", type=int, default=8)
    args = parser.parse_args()
    configure_logging("benchmark", "error", "console")
    started = time.monotonic()
    all_pairs = realistic_pairs(2000)
    pairs, share = comparable(all_pairs)
    extract_s = (time.monotonic() - started) / len(all_pairs)
    pool = Pool(PoolConfig(workers=WORKERS))
    pool.start()
    try:
        service = measure(pool, pairs[:300])
        say(
            service_ms=round(service.mean_s * 1000, 2),
            cv2=round(service.cv2, 2),
            share_that_needs_a_worker=round(share, 2),
        )
        rng = random.Random(0)
        for part in (0.5, 0.7, 0.85):
            rate = part * WORKERS / service.mean_s
            wait, busy = offered(pool, pairs, rate, args.seconds, rng)
            loaded = ServiceTime(busy, service.cv2)
            predicted = (
                expected_wait_s(WORKERS, rate, loaded, GROUP) if rate * busy < WORKERS else math.inf
            )
            say(
                offered_load=part,
                load_by_time_under_load=round(rate * busy / WORKERS, 2),
                wait_ms=round(wait * 1000, 1),
                predicted_ms=round(predicted * 1000, 1),
                ratio=round(wait / predicted, 2),
            )
    finally:
        pool.close()
    for line in table(args, service, share, extract_s):
        say(**line)


if __name__ == "__main__":
    main()
