"""The Pareto front of points with two costs."""

from __future__ import annotations

from collections.abc import Mapping

Point = tuple[float, float]


def _dominates(left: Point, right: Point) -> bool:
    """Return whether a point is at most another in both costs and smaller in one."""
    return left != right and left[0] <= right[0] and left[1] <= right[1]


def pareto_front(points: Mapping[str, Point]) -> tuple[str, ...]:
    """Return the names of the points that no other dominates.

    Args:
        points: Name to the two costs of a point; less is better.

    Returns:
        The names by ascending first cost; equal points are all members.
    """
    front = [
        name
        for name, point in points.items()
        if not any(_dominates(other, point) for other in points.values())
    ]
    return tuple(sorted(front, key=lambda name: points[name]))
