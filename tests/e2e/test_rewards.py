"""Rewards of the user's on the whole platform: what graders say is what a model learns."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from services.api.client import ApiClient
from services.common.model.tiny import make_tiny_model
from tests.support.embedded import local_platform, watch
from tests.support.http_stubs import Reply, Request, chat_reply, http_stub

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


def _judge_digits(request: Request) -> Reply:
    """A judge that likes digits."""
    text = request.body["messages"][-1]["content"].partition("Reply with JSON")[0]
    share = sum(character.isdigit() for character in text) / 16
    return chat_reply(json.dumps({"result": min(1.0, share)}), tokens=20)


def _reward_curve(api: ApiClient, job_id: str) -> list[float]:
    events = [event for event in api.events(job_id) if event.type == "metrics"]
    values = [event.data["values"] for event in events]
    return [each["reward/mean"] for each in values if "reward/mean" in each]


@pytest.mark.slow
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
    assert not [name for name in job.latest_metrics if "accuracy" in name or "frac_all" in name]


def test_a_judge_over_http_grades_and_one_that_fails_pauses_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = {
        "name": "judge",
        "type": "score_model",
        "model": "judge-1",
        "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
    }
    own = {"name": "own", "type": "endpoint", "endpoint": "own", "deadline_s": 2}
    with http_stub(_judge_digits) as sound, http_stub(lambda _: Reply("no", status=500)) as broken:
        endpoints = {"judge": {"url": f"{sound.url}/v1"}, "own": {"url": broken.url}}
        monkeypatch.setenv("DIRL_REWARD_ENDPOINTS", json.dumps(endpoints))
        with local_platform() as platform, ApiClient(platform.api_url) as api:
            spec = _make_spec(platform.data_dir / "input", judge)
            short = {**spec, "method": "rl", "rl": {"steps": 2, "prompts_per_step": 4}}
            graded = api.create_job(short).id
            watch(api, graded, lambda job: job.state == "succeeded", WAIT_S)
            metrics = api.job(graded).latest_metrics

            failing = api.create_job({**short, "reward": {"graders": [own]}}).id
            paused = watch(api, failing, lambda job: job.state == "paused", WAIT_S)
            events = api.events(failing)

    assert 0 < metrics["reward/mean"] == metrics["reward/judge/mean"] < 1
    assert metrics["reward/judge_tokens"] >= 4 * 8 * 20
    assert metrics["reward/judge/seconds"] > 0
    assert {request.path for request in sound.requests} == {"/v1/chat/completions"}
    assert paused.error is not None
    assert paused.error.code == "reward_error_rate"
    assert "grader:own:endpoint_failed (own: HTTP 500: no)" in paused.error.message
    shown = [event.data["disposition"] for event in events if event.type == "trajectories"]
    assert shown
    assert set(shown) == {"dropped_error"}
