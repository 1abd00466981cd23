"""Three rewards that are no comparison with a reference answer, each learned by a tiny model on the whole platform.

    python benchmarks/rewards_learn.py code environment speed

Prints one JSON line per run: results on held-out instances before and after, and the curve of the mean
reward. `code`: write the expression of two variables that gives a target, checked by running it.
`environment`: a data set of reasoning-gym, scored by its own scorer. `speed`: the same further steps from the
weights of a `code` run, with and without a speed part.
"""

import argparse
import json
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from services.api.client import ApiClient
from services.common.job_metrics import JobMetric
from services.common.model.tiny import make_tiny_model
from tests.support.embedded import local_platform, watch

_EXPRESSIONS: Final = ("a+b", "a-b", "a*b", "b-a")
_LARGEST: Final = 30
_HELD_OUT_PAIRS: Final = 150
_TIMEOUT_S: Final = 1200.0
_CODE_STEPS: Final = 60
_SPEED_STEPS: Final = 40

Json = dict[str, Any]


def make_spec(directory: Path, **changes: Any) -> Json:
    """Return the spec that all runs share, with a new model of 0.13 million parameters."""
    make_tiny_model(directory / "model", seed=0, hidden_size=64, layers=3)
    return {
        "model": str(directory / "model"),
        "method": "pipeline",
        "seed": 0,
        "trainer": {"seq_len": 128, "max_tokens_per_microbatch": 4096},
        "resources": {"rollout_batch_size": 512},
        "checkpoint": {"interval_steps": 1000, "keep_last": 3},
        "eval": {"num_samples": 300},
        **changes,
    }


def make_code_spec(directory: Path) -> Json:
    """SFT teaches the form only, with expressions drawn at random; the tests teach the rest.

    Each expression is also run on values that the prompt does not show, so the target itself, or an
    expression that fits by chance, does not pass. No pair of the held-out rows is trained on.
    """
    pairs = [(a, b) for a in range(2, _LARGEST) for b in range(2, _LARGEST) if a != b]
    random.Random(0).shuffle(pairs)
    held_out, trained = pairs[:_HELD_OUT_PAIRS], pairs[_HELD_OUT_PAIRS:]
    return make_spec(
        directory,
        training_file=_write(directory / "train.jsonl", _make_code_rows(trained, 3000, "train")),
        validation_file=_write(directory / "test.jsonl", _make_code_rows(held_out, 400, "test")),
        sampling={"max_new_tokens": 4},
        sft=_sft(60, 2e-3),
        rl={
            "steps": _CODE_STEPS,
            "prompts_per_step": 32,
            "num_generations": 16,
            "optim": {"lr": 1e-3},
        },
        reward={
            "graders": [
                {
                    "name": "code",
                    "program": "a, b = map(int, input().split())\nprint({{ sample.output_text }})",
                    "timeout_s": 1.0,
                }
            ]
        },
    )


def _make_code_rows(pairs: list[tuple[int, int]], count: int, split: str) -> Iterator[Json]:
    rng = random.Random(split)
    for place in range(count):
        a, b = pairs[place % len(pairs)]
        expression = rng.choice(_EXPRESSIONS)
        target = _evaluate(expression, a, b)
        if sum(_evaluate(other, a, b) == target for other in _EXPRESSIONS) > 1:
            continue  # the prompt does not say which one is asked for
        cases = [(a, b), *((rng.randrange(2, 50), rng.randrange(2, 50)) for _ in range(2))]
        yield {
            "prompt": f"a={a} b={b} -> {target}",
            "completion": rng.choice(_EXPRESSIONS),
            "tests": [
                {"input": f"{x} {y}", "output": str(_evaluate(expression, x, y))} for x, y in cases
            ],
        }


def _evaluate(expression: str, a: int, b: int) -> int:
    return {"a+b": a + b, "a-b": a - b, "a*b": a * b, "b-a": b - a}[expression]


def make_environment_spec(directory: Path) -> Json:
    """Words spelled backward: SFT stops early, and reasoning-gym's scorer teaches the rest."""
    words = "reasoning-gym:spell_backward?min_word_len=3&max_word_len=4"
    return make_spec(
        directory,
        training_file=f"{words}&seed=1&size=4096",
        validation_file=f"{words}&seed=500000&size=300",
        sampling={"max_new_tokens": 8},
        sft=_sft(120, 2e-3),
        rl={"steps": 60, "prompts_per_step": 32, "num_generations": 8, "optim": {"lr": 1e-3}},
    )


def run_code(api: ApiClient, directory: Path) -> Json:
    """Train on programs; results before and after reinforcement learning."""
    return {"run": "code", **_run(api, make_code_spec(directory))}


def run_environment(api: ApiClient, directory: Path) -> Json:
    """Train on reasoning-gym."""
    return {"run": "environment", **_run(api, make_environment_spec(directory))}


def run_speed(api: ApiClient, directory: Path) -> Json:
    """Train on programs, then go on from the same weights with and without a speed part."""
    first = _run(api, make_code_spec(directory))
    last = max(api.checkpoints(first["job"]), key=lambda item: item.step)
    more = {"rl.steps": _CODE_STEPS + _SPEED_STEPS, "eval.confidence_thresholds": [0.5, 0.7]}
    graders = api.job(first["job"]).spec["reward"]["graders"]
    speed = {"name": "speed", "type": "speed", "only_if": "code", "weight": 0.5}
    reward = {"reward.graders": [*graders, speed], "reward.normalisation": "per_grader"}
    plain = _await(api, api.fork(first["job"], last.id, more).id)
    fast = _await(api, api.fork(first["job"], last.id, {**more, **reward}).id)
    return {"run": "speed", "before": first["after"], "without": plain, "with": fast}


def _run(api: ApiClient, spec: Json) -> Json:
    return _await(api, api.create_job(spec).id)


def _await(api: ApiClient, job_id: str) -> Json:
    started = time.monotonic()
    watch(api, job_id, lambda job: job.state == "succeeded", timeout_s=_TIMEOUT_S)
    own = [item.results for item in api.evals(job_id) if "decoding" not in item.results]
    return {
        "job": job_id,
        "before": _shorten(own[0]),
        "after": _shorten(own[-1]),
        "reward_curve": [
            round(event.data["values"][JobMetric.REWARD_MEAN], 3)
            for event in api.metrics_after(job_id, None)
            if JobMetric.REWARD_MEAN in event.data["values"]
        ],
        "seconds": round(time.monotonic() - started),
    }


def _shorten(results: Json) -> Json:
    names = ("reward", "reward_low", "reward_high", "tokens_per_step", "aup", "num_prompts")
    shown = {name: round(results[name], 4) for name in names if results.get(name) is not None}
    # With one response to each prompt, the share of prompts whose program passes.
    passed = {"pass_rate": results["graders"]["code"]} if "code" in results["graders"] else {}
    return {**shown, **passed}


def _sft(steps: int, lr: float) -> Json:
    optim = {"lr": lr, "betas": [0.9, 0.98], "warmup_steps": 20}
    return {"epochs": 100, "max_steps": steps, "batch_size": 64, "optim": optim}


def _write(path: Path, rows: Iterable[Json]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


RUNS: Final = {"code": run_code, "environment": run_environment, "speed": run_speed}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], default=list(RUNS))
    for name in parser.parse_args().runs:
        with local_platform() as platform, ApiClient(platform.api_url) as api:
            directory = platform.data_dir / "input"
            directory.mkdir()
            print(json.dumps(RUNS[name](api, directory)), flush=True)


if __name__ == "__main__":
    main()
