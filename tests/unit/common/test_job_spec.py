"""A job spec is complete, frozen and hashed, or refused with everything that is wrong with it."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.common.errors import ProblemsError
from services.common.exactness import EXACT
from services.common.job_decoding import resolve_decoding
from services.common.job_spec import JobSpec, load_spec, parse_spec
from services.common.job_spec.job import strip_prose

SCHEMA = JobSpec.model_json_schema()
KEYS = [
    (model, key)
    for model, schema in {"JobSpec": SCHEMA, **SCHEMA["$defs"]}.items()
    for key in schema.get("properties", {})
]

MINIMAL = {"model": "m", "method": "pipeline", "training_file": "train", "validation_file": "test"}


def _spec(**changes: Any) -> JobSpec:
    return parse_spec({**MINIMAL, **changes})


def _problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(ProblemsError) as caught:
        _spec(**changes)
    return {problem.path: problem.message for problem in caught.value.problems}


def _resolve(spec: JobSpec, *, evaluation: bool = False) -> Any:
    return resolve_decoding(
        spec, block_size=4, mask_token_id=99, stop_token_ids=(7,), evaluation=evaluation
    )


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("sft", ("sft",)),
        ({"type": "supervised"}, ("sft",)),
        ({"type": "reinforcement"}, ("rl",)),
        ("pipeline", ("sft", "rl", "eval")),
    ],
)
def test_a_method_is_an_object_a_string_or_openais_word(
    method: object, stages: tuple[str, ...]
) -> None:
    assert _spec(method=method).method.stages == stages


def test_all_problems_are_reported_at_once_each_with_its_path() -> None:
    problems = _problems(foo=1, rl={"steps": "many", "clip": 0.1}, sampling={"temperature": -1})

    assert set(problems) == {"foo", "rl.steps", "rl.clip", "sampling.temperature"}
    assert problems["foo"] == problems["rl.clip"] == "unknown key"
    assert "'many'" in problems["rl.steps"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"validation_file": None}, "validation_file is required"),
        ({"training_file": None}, "needs training_file"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature is 0"),
        (
            {"rl": {"prompts_per_step": 2, "min_groups_per_step": 3}},
            "min_groups_per_step=3 exceeds",
        ),
        ({"reward": {"graders": [{"name": "format"}, {"name": "format"}]}}, "distinct names"),
        ({"reward": {"graders": [{"name": "judge"}]}}, "'judge'"),
        ({"optim": {"lr": float("nan")}}, "finite"),
        ({"training_mixture": [{"file": "a"}]}, "exclude each other"),
        (
            {"training_file": None, "training_mixture": [{"file": "a", "weight": 0}]},
            "greater than 0",
        ),
        (
            {
                "diffusion": {"unmasking_strategy": "sequential"},
                "eval": {"confidence_thresholds": [0.5]},
            },
            "has no threshold",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    changes: dict[str, Any], part: str
) -> None:
    assert part in " ".join(_problems(**changes).values())


def test_a_stage_may_have_its_own_file_and_optimizer() -> None:
    spec = _spec(optim={"lr": 1e-3}, rl={"training_file": "prompts", "optim": {"lr": 1e-6}})

    assert [part.file for stage in ("sft", "rl") for part in spec.training_files_of(stage)] == [
        "train",
        "prompts",
    ]
    assert (spec.optim_of("sft").lr, spec.optim_of("rl").lr) == (1e-3, 1e-6)
    assert spec.files() == ("train", "test", "prompts")


def test_a_mixture_stands_in_for_the_training_file_of_every_stage_without_its_own() -> None:
    mixture = [{"file": "a", "weight": 3}, {"file": "b"}]
    spec = _spec(training_file=None, training_mixture=mixture, rl={"training_file": "prompts"})

    assert [(part.file, part.weight) for part in spec.training_files_of("sft")] == [
        ("a", 3.0),
        ("b", 1.0),
    ]
    assert [part.file for part in spec.training_files_of("rl")] == ["prompts"]
    assert spec.files() == ("test", "prompts", "a", "b")


def test_the_hash_is_that_of_the_meaning_not_of_the_text() -> None:
    assert _spec().spec_hash() == _spec(method={"type": "pipeline"}, seed=0).spec_hash()
    assert _spec().spec_hash() != _spec(seed=1).spec_hash()


def test_a_spec_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _spec().seed = 1  # type: ignore[misc]


def test_the_canonical_form_reads_back_as_the_same_spec() -> None:
    spec = _spec(diffusion={"unmasking_strategy": "sequential"}, metadata={"team": "a"})

    assert parse_spec(json.loads(spec.canonical_json())) == spec


@pytest.mark.parametrize(
    ("name", "text"), [("spec.toml", "model = "), ("spec.json", '{"model": '), ("list.json", "[]")]
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(ProblemsError, match=name):
        load_spec(path)


def test_decoding_takes_the_checkpoints_values_and_evaluation_is_greedy() -> None:
    spec = _spec(
        sampling={"max_new_tokens": 8, "top_p": 0.5, "top_k": 3}, eval={"max_new_tokens": 16}
    )
    train, evaluation = _resolve(spec), _resolve(spec, evaluation=True)

    assert (train.block_size, train.denoising_steps, train.mask_token_id, train.stop_token_ids) == (
        4,
        4,
        99,
        (7,),
    )
    assert (train.temperature, train.top_p, train.top_k, train.max_new_tokens) == (1.0, 0.5, 3, 8)
    assert (
        evaluation.temperature,
        evaluation.top_p,
        evaluation.top_k,
        evaluation.max_new_tokens,
    ) == (0.0, 1.0, 0, 16)


def test_every_contradiction_between_spec_and_checkpoint_is_named() -> None:
    changes = {"block_size": 8, "mask_token_id": 1, "denoising_steps": 5}
    spec = _spec(diffusion=changes, eval={"denoising_steps": [4, 6]})

    with pytest.raises(ProblemsError) as caught:
        _resolve(spec)
    paths = [problem.path for problem in caught.value.problems]
    assert paths == [*(f"diffusion.{name}" for name in changes), "eval.denoising_steps.1"]


def _rl(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "method": "rl", "training_file": "t", **changes}


def test_the_exact_preset_makes_its_settings() -> None:
    rl = parse_spec(_rl(rl={"preset": "exact", "steps": 3})).rl

    assert {name: getattr(rl, name) for name in EXACT} == EXACT
    assert rl.steps == 3


def test_a_spec_with_the_exact_preset_survives_its_own_json() -> None:
    spec = parse_spec(_rl(rl={"preset": "exact"}))

    assert parse_spec(json.loads(spec.canonical_json())) == spec


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rl": {"preset": "exact", "advantage": "std"}}, "conflicts with {'advantage': 'std'}"),
        ({"rl": {"preset": "exact", "kl_beta": 0.1}}, "conflicts with"),
        ({"rl": {"preset": "exact", "num_iterations": 2}}, "conflicts with"),
        (
            {"rl": {"preset": "exact"}, "sampling": {"temperature": 0.9}},
            "needs sampling.temperature 1",
        ),
        ({"rl": {"preset": "exact"}, "sampling": {"top_k": 50}}, "needs sampling.temperature 1"),
        (
            {"rl": {"preset": "exact"}, "diffusion": {"selection": "sampled"}},
            "needs rl.estimator 'all_candidates'",
        ),
        ({"rl": {"minibatches": 2}}, "exceeds min_groups_per_step=1"),
    ],
)
def test_what_contradicts_the_preset_or_leaves_a_mini_batch_empty_is_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ProblemsError) as caught:
        parse_spec(_rl(**changes))

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "rl": {"preset": "exact", "estimator": "all_candidates"},
            "diffusion": {"selection": "sampled"},
        },
        {
            "rl": {"preset": "exact"},
            "diffusion": {"selection": "sampled", "unmasking_strategy": "sequential"},
        },
    ],
)
def test_the_exact_preset_takes_the_sampled_rule_where_it_is_exact(changes: dict[str, Any]) -> None:
    assert parse_spec(_rl(**changes)).rl.preset == "exact"


@pytest.mark.parametrize(("estimator", "recorded"), [("accepted", False), ("all_candidates", True)])
def test_candidates_are_recorded_for_the_estimator_that_scores_them(
    estimator: str, recorded: bool
) -> None:
    spec = parse_spec(_rl(rl={"estimator": estimator}))
    model: dict[str, Any] = {"block_size": 4, "mask_token_id": 9, "stop_token_ids": (0,)}

    assert resolve_decoding(spec, **model, evaluation=False).record_candidates is recorded
    assert not resolve_decoding(spec, **model, evaluation=True).record_candidates


@pytest.mark.parametrize(("model", "key"), KEYS)
def test_every_key_says_what_it_means_in_the_schema_that_the_api_and_the_form_show(
    model: str, key: str
) -> None:
    schema = SCHEMA if model == "JobSpec" else SCHEMA["$defs"][model]
    shown = schema["properties"][key]
    section = SCHEMA["$defs"][shown["$ref"].rpartition("/")[2]] if "$ref" in shown else {}

    # The discriminator of a grader is the name of its model, which is described itself.
    described = schema if key == "type" and "const" in shown else shown
    assert described.get("description") or section.get("description")


def test_the_digest_of_the_schema_ignores_wording_and_keeps_every_rule() -> None:
    schema = {
        "title": "Job",
        "properties": {"source": {"type": "string", "description": "Origin.", "unit": "rows"}},
        "anyOf": [{"maximum": 3, "source": "a paper"}],
    }

    assert strip_prose(schema) == {
        "properties": {"source": {"type": "string"}},
        "anyOf": [{"maximum": 3}],
    }
    assert "description" in json.dumps(JobSpec.model_json_schema())
    assert "description" not in json.dumps(strip_prose(JobSpec.model_json_schema()))
