"""OpenAI's fine-tuning request as a job spec: its names translated, what has no meaning here
refused by name.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from services.api.schemas.fine_tuning import FineTuningRequest
from services.common.errors import Problem, ProblemsError
from services.common.job_spec import OptimSpec, RlSpec

_AUTO: Final = "auto"
_TYPES: Final = ("supervised", "reinforcement")
_KEYS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "supervised": {"n_epochs": ("sft", "epochs"), "batch_size": ("sft", "batch_size")},
    "reinforcement": {
        "batch_size": ("rl", "prompts_per_step"),
        "eval_interval": ("eval", "interval_steps"),
        "eval_samples": ("eval", "num_samples"),
    },
}
"""Section and key of the spec by OpenAI's name."""


def to_job_spec(request: FineTuningRequest) -> dict[str, Any]:
    """The spec, not checked yet; raises ProblemsError("spec_invalid") for names without a meaning
    here.
    """
    problems: list[Problem] = []
    method = request.method.get("type")
    if method not in _TYPES:
        problems.append(
            Problem("method.type", f"is {method!r}; it must be one of {', '.join(_TYPES)}")
        )
    if request.integrations:
        problems.append(Problem("integrations", "must be empty: jobs report to the platform alone"))
    details = request.method.get(str(method)) or {}
    given = details.get("hyperparameters") or request.hyperparameters or {}
    sections: dict[str, dict[str, Any]] = {}
    if method in _TYPES:
        for section, key, value in _translate(str(method), given, problems):
            sections.setdefault(section, {})[key] = value
    if "grader" in details:
        sections["reward"] = {"graders": [_to_grader(details["grader"], problems)]}
    if problems:
        raise ProblemsError("spec_invalid", "The job cannot be accepted", problems)
    plain = {
        name: getattr(request, name) for name in ("validation_file", "suffix", "seed", "metadata")
    }
    spec = {name: value for name, value in plain.items() if value is not None}
    spec |= {
        "model": request.model,
        "training_file": request.training_file,
        "method": {"type": method},
    }
    return _merge({**spec, **sections}, request.model_extra or {})


def _translate(
    method: str, given: Mapping[str, Any], problems: list[Problem]
) -> Iterator[tuple[str, str, Any]]:
    for name, value in given.items():
        if value == _AUTO or value is None:
            continue
        if name in _KEYS[method]:
            yield (*_KEYS[method][name], value)
        elif name == "learning_rate_multiplier" and isinstance(value, int | float):
            yield "optim", "lr", OptimSpec().lr * value
        elif (
            name == "compute_multiplier"
            and method == "reinforcement"
            and isinstance(value, int | float)
        ):
            yield "rl", "num_generations", max(2, round(RlSpec().num_generations * value))
        else:
            rule = "has no meaning here; give the platform's own keys beside OpenAI's, e.g. rl.steps or sft.epochs"
            problems.append(Problem(f"method.{method}.hyperparameters.{name}", rule))


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the platform's own keys, which win."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _to_grader(grader: Any, problems: list[Problem]) -> dict[str, Any]:
    """A grader of the spec from one of OpenAI's, named after its type where it has no name."""
    if not isinstance(grader, dict) or not isinstance(grader.get("type"), str):
        problems.append(
            Problem("method.reinforcement.grader", "must be an object whose `type` names a grader")
        )
        return {}
    # The release of OpenAI's own sandbox, which its Python graders name.
    own = {name: value for name, value in grader.items() if name != "image_tag"}
    return {"name": grader["type"], **own}
