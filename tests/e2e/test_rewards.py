"""Rewards of the user's on the whole platform: what graders say is what a model learns."""

import json
import random
from pathlib import Path
from typing import Any

from services.api.client import ApiClient
from services.common.model.tiny import make_tiny_model
from tests.support.embedded import local_platform, watch

THREE_DIGITS = """
def grade(sample, item):
    return float(sum(character.isdigit() for character in sample["output_text"]) == 3)
"""
STEPS = 60
WAIT_S = 900.0


def _make_spec(directory: Path, *graders: dict[str, Any]) -> dict[str, Any]:
    """A job of a tiny model that first learns to write one to six digits; its rows have no reference
    answers. Only sizes and learning rates differ from the defaults.
    """
    directory.mkdir()
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"Write digits ({number}).",
            "completion": "".join(draw.choices("0123456789", k=draw.randint(1, 6))),
        }
        for number in range(512)
    ]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_tiny_model(directory / "model", seed=0, hidden_size=64, layers=2)
    return {
        "model": str(directory / "model"),
        "method": "pipeline",
        "training_file": str(directory / "rows.jsonl"),
        "validation_file": str(directory / "rows.jsonl"),
        "eval": {"num_samples": 32},
        "reward": {"graders": graders},
        "sft": {"epochs": 20, "max_steps": 120, "optim": {"lr": 3e-3}},
        "rl": {"steps": STEPS, "prompts_per_step": 8, "optim": {"lr": 3e-4}},
        "sampling": {"max_new_tokens": 16},
    }


def _reward_curve(api: ApiClient, job_id: str) -> list[float]:
    events = [event for event in api.events(job_id) if event.type == "metrics"]
    values = [event.data["values"] for event in events]
    return [each["reward/mean"] for each in values if "reward/mean" in each]


def test_a_python_reward_without_reference_answers_is_learnt() -> None:
    grader = {"name": "three_digits", "type": "python", "source": THREE_DIGITS}
    with local_platform() as platform, ApiClient(platform.api_url) as api:
        job_id = api.create_job(_make_spec(platform.data_dir / "input", grader)).id
        job = watch(api, job_id, lambda job: job.state in ("succeeded", "failed"), WAIT_S)
        curve = _reward_curve(api, job_id)

    assert job.state == "succeeded", (job.error, curve)
    assert len(curve) == STEPS
    assert sum(curve[:3]) / 3 < 0.3, curve
    assert sum(curve[-5:]) / 5 > 0.8, curve
    # Nothing was compared, so nothing speaks of accuracy.
    assert not [name for name in job.latest_metrics if "accuracy" in name or "correct" in name]
