"""Which of several choices are not beaten by another."""

from __future__ import annotations

from collections.abc import Mapping

Point = tuple[float, float]


def _dominates(left: Point, right: Point) -> bool:
    """Return whether a point is nowhere larger than another and somewhere smaller."""
    return left != right and left[0] <= right[0] and left[1] <= right[1]


def pareto_front(points: Mapping[str, Point]) -> tuple[str, ...]:
    """Return the names of the points that no other dominates.

    Args:
        points: Name to what it costs and how far it is off; less of either is better.

    Returns:
        By ascending cost; points that are equal are all members.
    """
    front = [
        name
        for name, point in points.items()
        if not any(_dominates(other, point) for other in points.values())
    ]
    return tuple(sorted(front, key=lambda name: points[name]))
