"""The preset `exact`: settings for which the expected update is the gradient of the expected reward.

docs/algorithm.md explains why each setting is needed. Every function raises ValueError with the
rule and how to fix the spec.
"""

from collections.abc import Mapping
from typing import Any, Final

from services.common.diffusion.config import Selection, UnmaskingStrategy

EXACT: Final[Mapping[str, Any]] = {
    "advantage": "leave_one_out",
    "normaliser": "constant",
    "dynamic_sampling": "off",
    "num_iterations": 1,
    "minibatches": 1,
    "kl_beta": 0.0,
    "max_staleness": 0,
}
"""Settings of `rl` that the preset implies."""
CONFIDENCE_BASED: Final = (
    UnmaskingStrategy.LOW_CONFIDENCE_STATIC,
    UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC,
)


def apply_exact_settings(rl: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings of `rl` with EXACT; raises ValueError for a contradiction."""
    conflicting = {
        name: rl[name] for name, value in EXACT.items() if name in rl and rl[name] != value
    }
    if conflicting:
        wanted = {name: EXACT[name] for name in conflicting}
        raise ValueError(
            f"preset 'exact' sets {wanted}, which conflicts with {conflicting}; remove these keys"
        )
    return {**EXACT, **rl}


def require_policy_sampling(temperature: float, top_p: float, top_k: int) -> None:
    """Require that responses are sampled from the policy itself."""
    if not (temperature == 1 and top_p == 1 and top_k == 0):
        raise ValueError(
            "rl.preset 'exact' needs sampling.temperature 1, top_p 1 and top_k 0, "
            f"got {temperature}, {top_p} and {top_k}"
        )


def require_exact_estimator(
    estimator: str, strategy: UnmaskingStrategy, selection: Selection
) -> None:
    """Require scores of all candidates if sampled candidates decide which positions are committed."""
    if estimator == "accepted" and selection is Selection.SAMPLED and strategy in CONFIDENCE_BASED:
        raise ValueError(
            "rl.preset 'exact' with diffusion.selection 'sampled' needs rl.estimator 'all_candidates': which tokens "
            "are accepted depends on the rejected ones"
        )
