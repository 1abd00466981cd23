"""The preset `exact`: settings under which the expected update is the gradient of the expected
reward.

docs/algorithm.md says why each is needed. Every function raises ValueError with the rule and the
way out.
"""

from collections.abc import Mapping
from typing import Any, Final

from services.common.diffusion.config import Selection, UnmaskingStrategy

EXACT: Final[Mapping[str, Any]] = {
    "advantage": "leave_one_out",
    "normaliser": "constant",
    "dynamic_sampling": False,
    "num_iterations": 1,
    "minibatches": 1,
    "kl_beta": 0.0,
    "max_staleness": 0,
}
"""Settings of `rl` that the preset makes."""
LOOK_AT_CONFIDENCES: Final = (
    UnmaskingStrategy.LOW_CONFIDENCE_STATIC,
    UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC,
)


def with_exact_settings(rl: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings of `rl` and those of EXACT; a contradiction is refused."""
    against = {name: rl[name] for name, value in EXACT.items() if name in rl and rl[name] != value}
    if against:
        wanted = {name: EXACT[name] for name in against}
        raise ValueError(
            f"preset 'exact' means {wanted}, which {against} contradicts; leave those keys out"
        )
    return {**EXACT, **rl}


def require_policy_sampling(temperature: float, top_p: float, top_k: int) -> None:
    """Responses must be drawn from the policy itself."""
    if not (temperature == 1 and top_p == 1 and top_k == 0):
        raise ValueError(
            "rl.preset 'exact' needs sampling.temperature 1, top_p 1 and top_k 0, "
            f"got {temperature}, {top_p} and {top_k}"
        )


def require_exact_estimator(
    estimator: str, strategy: UnmaskingStrategy, selection: Selection
) -> None:
    """Where sampled candidates decide which positions are committed, all of them must be scored."""
    if (
        estimator == "accepted"
        and selection is Selection.SAMPLED
        and strategy in LOOK_AT_CONFIDENCES
    ):
        raise ValueError(
            "rl.preset 'exact' with diffusion.selection 'sampled' needs rl.estimator 'all_candidates': which tokens "
            "are accepted depends on the rejected ones"
        )
