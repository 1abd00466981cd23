"""The Wilson score interval of a proportion (E. B. Wilson, JASA 22, 1927)."""

import math
from typing import Final

_Z_95: Final = 1.959963984540054


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95 % interval of a proportion; `successes` may be fractional (means over several responses
    per prompt).

    Raises ValueError without trials: a share of nothing is missing, not zero.
    """
    if trials < 1:
        raise ValueError("a proportion needs at least one trial")
    share, z2 = successes / trials, _Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = share * (1 - share) / trials + z2 / (4 * trials**2)
    half = _Z_95 * math.sqrt(max(0.0, spread)) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)
