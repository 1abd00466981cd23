"""The slow, obvious way to thin metric series: what services.api.db.series is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    attempt: int
    step: int
    value: float


def surviving(points: Sequence[Point], resumed_from: Mapping[int, int]) -> list[Point]:
    """Points of the lineage that led to the current weights, by step.

    `resumed_from` gives, per attempt, the step it started from. What earlier attempts did after
    that step was undone; of several attempts that did the same step the newest counts.
    """
    newest: dict[int, Point] = {}
    for point in points:
        undone = any(
            point.step > start for attempt, start in resumed_from.items() if attempt > point.attempt
        )
        if not undone and (point.step not in newest or newest[point.step].attempt <= point.attempt):
            newest[point.step] = point
    return [newest[step] for step in sorted(newest)]


def downsample(points: Sequence[Point], limit: int) -> list[Point]:
    """At most `limit` points: per stretch its least and its greatest value, so that no spike is
    lost.

    The first and the last point are always kept; fewer than four points cannot be promised that, so
    `limit` >= 4.
    """
    if len(points) <= limit:
        return list(points)
    inner = points[1:-1]
    stretches = (limit - 2) // 2
    kept = [points[0]]
    for index in range(stretches):
        stretch = inner[len(inner) * index // stretches : len(inner) * (index + 1) // stretches]
        extremes = {min(stretch, key=_value), max(stretch, key=_value)}
        kept.extend(sorted(extremes, key=lambda point: point.step))
    return [*kept, points[-1]]


def _value(point: Point) -> float:
    return point.value
