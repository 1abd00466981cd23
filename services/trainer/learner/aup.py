"""Accuracy under parallelism (AUP, d3LLM, arXiv 2601.07568): one number for a frontier of accuracy and speed."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

_PENALTY: Final = 3.0
_TOLERANCE: Final = 5.0
"""Percentage points below the accuracy of the slowest decoding; worse points are left out."""


def compute_aup(evaluations: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the AUP of the results of several decodings; None where success has no meaning.

    With accuracies y in percent at p tokens per step, by speed: p1 y1 plus the area under y W(y)
    between the points, W(y) = exp(-3 (1 - y / y_max)). y_max is the best accuracy of these
    evaluations, so numbers of jobs compare only as far as their best accuracies do.
    """
    points = [point for results in evaluations if (point := _to_point(results)) is not None]
    if not points:
        return None
    points.sort()
    (slowest, accuracy), best = points[0], max(y for _, y in points)
    kept = [(speed, y) for speed, y in points if y >= accuracy - _TOLERANCE]
    area = slowest * accuracy
    for (before, left), (after, right) in pairwise(kept):
        area += (after - before) * (_weigh(left, best) + _weigh(right, best)) / 2
    return area


def _to_point(results: Mapping[str, Any]) -> tuple[float, float] | None:
    """Tokens per step, and accuracy in percent: of correct responses, else of successes."""
    share = results.get("accuracy", results.get("pass_at", {}).get("1"))
    speed = results.get("tokens_per_step")
    return None if share is None or speed is None else (float(speed), 100.0 * float(share))


def _weigh(accuracy: float, best: float) -> float:
    return accuracy * math.exp(-_PENALTY * (1 - accuracy / best)) if best > 0 else 0.0
