"""Where the names of points go so that they cover neither each other nor anything else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

NEAREST = 8.0  # pixels between a point and its name
RINGS = (NEAREST, 14.0, 22.0, 32.0, 44.0, 58.0, 74.0, 92.0)
ANGLES = 24
PASSES = 4
ON_LABEL, ON_MARK, OUTSIDE, PER_PIXEL = 3.0, 1.0, 10.0, 1.2
CROSSED = 30.0
ALONG = np.linspace(0.25, 1.0, 8)[:, None]  # where a leader is looked at
MARGIN = 1.5


def place_labels(
    anchors: Sequence[Point],
    sizes: Sequence[Point],
    obstacles: Sequence[Box],
    bounds: Box,
) -> list[Box]:
    """Find a box for every label, the nearest to its point that is free.

    Each label in turn takes the cheapest of a ring of places while the others stay; a few passes
    over all of them settle.

    Args:
        anchors: The points, in pixels; the first choose first.
        sizes: Width and height of each label.
        obstacles: What should not be covered.
        bounds: What should not be left.

    Returns:
        One box a label.
    """
    choices = [_choices(anchor, size) for anchor, size in zip(anchors, sizes, strict=True)]
    fixed = np.array(obstacles, dtype=np.float64).reshape(-1, 4)
    base = [
        away
        + ON_MARK * _overlaps(boxes, fixed).sum(1)
        + CROSSED * _crossings(leaders, fixed[_within(np.array(anchor), fixed) == 0.0])
        + OUTSIDE * _outside(boxes, bounds)
        for anchor, (boxes, leaders, away) in zip(anchors, choices, strict=True)
    ]
    placed: dict[int, tuple[Array, Array]] = {}
    for _, label in itertools.product(range(PASSES), range(len(choices))):
        boxes, leaders, _away = choices[label]
        others = [other for number, other in placed.items() if number != label]
        cost = base[label].copy()
        if others:
            taken = np.stack([box for box, _ in others])
            cost += ON_LABEL * _overlaps(boxes, taken).sum(1) + CROSSED * _crossings(leaders, taken)
            for _, line in others:
                cost += CROSSED * _within(line, boxes).sum(0)
        best = int(cost.argmin())
        placed[label] = boxes[best], leaders[best]
    return [_box(placed[label][0]) for label in range(len(choices))]


def leader(anchor: Point, box: Box) -> Point | None:
    """Return where a line from a point to its label ends; None where they are close enough."""
    x, y = anchor
    left, bottom, right, top = box
    end = min(max(x, left), right), min(max(y, bottom), top)
    away = float(np.hypot(end[0] - x, end[1] - y))
    return end if away > 1.5 * NEAREST else None


def _box(array: Array) -> Box:
    left, bottom, right, top = map(float, array)
    return left, bottom, right, top


def _choices(anchor: Point, size: Point) -> tuple[Array, Array, Array]:
    """Return boxes around a point, points along their leaders, and what each costs for its way."""
    angles = np.linspace(0.0, 2.0 * np.pi, ANGLES, endpoint=False)
    rings, turned = (grid.ravel() for grid in np.meshgrid(RINGS, angles, indexing="ij"))
    half = np.array(size) / 2.0
    middle = np.array(anchor) + np.stack(
        [np.cos(turned) * (rings + half[0]), np.sin(turned) * (rings + half[1])], 1
    )
    boxes = np.concatenate([middle - half, middle + half], 1)
    ends: Array = np.clip(np.array(anchor), boxes[:, :2], boxes[:, 2:])
    leaders = np.array(anchor) + ALONG * (ends - np.array(anchor))[:, None, :]
    away: Array = np.hypot(ends[:, 0] - anchor[0], ends[:, 1] - anchor[1])
    return boxes, leaders, PER_PIXEL * np.sqrt(2.0 * half[1]) * away


def _within(points: Array, boxes: Array) -> Array:
    """Return which points (..., 2) lie in which boxes (m, 4): (..., m), 0 or 1."""
    spots = points[..., None, :]
    inside = ((spots >= boxes[:, :2]) & (spots <= boxes[:, 2:])).all(-1)
    return np.asarray(inside, dtype=np.float64)


def _crossings(leaders: Array, boxes: Array) -> Array:
    """Return how much of each leader (n, points, 2) lies in boxes (m, 4): (n,)."""
    crossed: Array = _within(leaders, boxes).sum((1, 2))
    return crossed


def _overlaps(boxes: Array, others: Array) -> Array:
    """Return the areas that boxes (n, 4) share with others (m, 4): (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2] - MARGIN)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:] + MARGIN)
    area: Array = np.clip(high - low, 0.0, None).prod(2)
    return area


def _outside(boxes: Array, bounds: Box) -> Array:
    """Return how much of each box lies out of bounds."""
    inside = _overlaps(boxes, np.array([bounds]) + MARGIN * np.array([1.0, 1.0, -1.0, -1.0]))[:, 0]
    whole: Array = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return whole - inside
