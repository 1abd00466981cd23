"""Asynchronous against on-policy reinforcement at an equal number of steps, on the demo's job; one
JSON object.

One supervised training as in the demo, then 20 steps of reinforcement twice from its weights: with
`rl.max_staleness` 0 and with 1. `wall_ratio` is the on-policy steps' wall over the asynchronous
ones' (above 1: asynchronous is faster); accuracies are greedy, on held-out problems, before and
after. Learner and engine share the machine's cores, so that there is something to gain only where
one of them leaves cores idle.
"""

import argparse
import json
from typing import Any

from overhead import bench

from services.common.job_metrics import JobMetric


def _figures(done: dict[str, Any]) -> dict[str, Any]:
    steps = done["steps"]
    return {
        "wall_s": round(sum(values[JobMetric.TIME_STEP_S] for values in steps), 2),
        "accuracy": done["accuracy"],
        "staleness_mean": round(
            sum(values[JobMetric.STALENESS_MEAN] for values in steps) / len(steps), 3
        ),
        "stale_groups": sum(values[JobMetric.STALENESS_DROPPED_GROUPS] for values in steps),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="hardly any training, three steps of few prompts"
    )
    quick = parser.parse_args().quick
    few = {"steps": 3, "prompts_per_step": 4, "num_generations": 4, "dynamic_sampling": False}
    shape: dict[str, Any] = few if quick else {"steps": 20}
    with bench(*((4, 8) if quick else ())) as ready:
        on_policy, ahead = (
            _figures(ready.reinforce(**shape, max_staleness=staleness)) for staleness in (0, 1)
        )
    results = {
        "wall_ratio": round(on_policy["wall_s"] / ahead["wall_s"], 3),
        "on_policy": on_policy,
        "ahead": ahead,
    }
    print(json.dumps({"benchmark": "async", "steps": shape["steps"], **results}))


if __name__ == "__main__":
    main()
