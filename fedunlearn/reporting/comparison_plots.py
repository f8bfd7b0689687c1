"""The figures of a comparison: quality against cost, and the course of a sequence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedunlearn.reporting.columns import byte_unit
from fedunlearn.reporting.labels import Box, leader, place_labels
from fedunlearn.reporting.pareto import pareto_front
from fedunlearn.reporting.spread import BYTES, Comparison, Figure, RequestSummary
from fedunlearn.reporting.svg import (
    AXES,
    DASHED,
    INK,
    MARKERS,
    METHOD_COLOURS,
    PAGE,
    SENTINELS,
    STYLE,
    Point,
    label_ends,
    log_axis,
    new_figure,
    note,
    to_svg,
)

OURS = ("cubic-newton", "instant-cubic-newton")
GLYPH = 6.7  # pixels; the width of a character of a label, generously
LINE = 14.0
NEAR_ZERO = 0.2  # decades between no cost and the least one
BESIDE, LAST = "muted", "ink"


@dataclass(frozen=True)
class Cost:
    """What an axis of cost counts.

    Attributes:
        key: Of the metric.
        label: Of the axis.
        write: How a value stands beside it.
    """

    key: str
    label: str
    write: Callable[[float], str]


def _write_bytes(value: float) -> str:
    size, unit = byte_unit(value)
    return f"{value / size:g} {unit}" if value else "0"


COSTS = (
    Cost("rounds", "rounds", "{:g}".format),
    Cost(BYTES, "bytes, up and down", _write_bytes),
    Cost("gradient_equivalents", "gradients", "{:g}".format),
)


def cost_front(request: RequestSummary, cost: Cost) -> tuple[str, ...]:
    """Return the methods that no other beats in both mean forget JS and mean cost.

    Args:
        request: What the methods did.
        cost: What they are held against.

    Returns:
        By ascending cost.
    """
    return pareto_front({name: (x.mean, y.mean) for name, (x, y) in _points(request, cost).items()})


def colours_of(comparison: Comparison) -> dict[str, str]:
    """Return the CSS variable of every model, without its dashes.

    Args:
        comparison: Whose last request decides.

    Returns:
        A colour for each of ours, ink for what lies on some front, and muted for the rest.
    """
    request = comparison.requests[-1]
    ours = [name for name in request.methods if comparison.kind(name) in OURS]
    fronts = {name for cost in COSTS for name in cost_front(request, cost)}
    return {
        "trained": "trained",
        **{name: LAST if name in fronts else BESIDE for name in request.methods},
        **{name: f"method-{place % METHOD_COLOURS + 1}" for place, name in enumerate(ours)},
        "retrained": "retrained",
        "floor": "floor",
    }


@matplotlib.rc_context(STYLE)
def quality_against_cost(
    request: RequestSummary, cost: Cost, *, colours: Mapping[str, str], key: str
) -> str:
    """Draw every method's forget JS against what it cost, and the front.

    Args:
        request: After which it is measured.
        cost: The horizontal axis; logarithmic, with zero where there is one.
        colours: As of ``colours_of``.
        key: Unique in the page.

    Returns:
        SVG; empty where no method has this cost.
    """
    points = _points(request, cost)
    if not points:
        return ""
    front = cost_front(request, cost)
    references = {
        name: figures["forget_js"].mean
        for name, figures in (("trained", request.trained), ("floor", request.floor))
        if "forget_js" in figures
    }
    width, height, margins = 660.0, 460.0, (66.0, 48.0, 62.0, 24.0)
    figure, axes = new_figure(width, height, margins)
    retraining = request.retrained.get(cost.key)
    xs = [x.mean + d * (x.spread or 0.0) for x, _ in points.values() for d in (0, 1)]
    ys = [y.mean + d * (y.spread or 0.0) for _, y in points.values() for d in (0, 1)]
    log_axis(axes, "x", xs + ([retraining.mean] if retraining else []), cost.write, NEAR_ZERO)
    log_axis(axes, "y", ys + list(references.values()))
    axes.grid(axis="y")
    axes.set(xlabel=cost.label, ylabel="forget JS (nats)")
    marks = _Marks(axes, width, height)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    lines = [((left, value), (right, value)) for value in references.values()]
    for name, value in references.items():
        axes.axhline(value, color=SENTINELS[colours[name]], linewidth=1.3, linestyle=DASHED)
    label_ends(axes, references, colours)
    if retraining:
        _retraining(axes, retraining.mean, cost, SENTINELS[colours["retrained"]])
        lines.append(((retraining.mean, low), (retraining.mean, high)))
    steps = _draw_front(axes, [(points[name][0].mean, points[name][1].mean) for name in front])
    lines += itertools.pairwise(steps)
    for line in lines:
        marks.keep_off(*line)
    shades = {
        name: BESIDE if colours[name] == LAST and name not in front else colours[name]
        for name in points
    }
    order = sorted(points, key=lambda name: (shades[name] == BESIDE, name not in front))
    for name in reversed(order):
        marks.point(*points[name], colour=shades[name])
    marks.names({name: (points[name][0].mean, points[name][1].mean) for name in order}, shades)
    said = "; ".join(
        f"{name} {y.mean:.4f} at {cost.write(x.mean)}" for name, (x, y) in points.items()
    )
    return to_svg(
        figure, key, f"Forget JS against {cost.label}: {said}. On the front: {', '.join(front)}."
    )


@matplotlib.rc_context(STYLE)
def course(
    series: Mapping[str, Sequence[Figure | None]],
    *,
    label: str,
    reference: tuple[str, float] | None,
    logarithmic: bool,
    colours: Mapping[str, str],
    key: str,
) -> str:
    """Draw a metric after every request of a sequence.

    Args:
        series: Model to the metric after each request; None where it was not measured.
        label: Of the metric.
        reference: Name and value of a horizontal line.
        logarithmic: Whether the metric is.
        colours: As of ``colours_of``; only what they set apart has bars of its spread.
        key: Unique in the page.

    Returns:
        SVG.
    """
    means = {
        name: [(place, f.mean) for place, f in enumerate(figures, start=1) if f]
        for name, figures in series.items()
    }
    last = max((len(figures) for figures in series.values()), default=1)
    margin = 24 + 6.8 * max((len(name) for name in series), default=0)
    figure, axes = new_figure(560, max(330, 70 + 17 * (len(series) + 1)), (66, 48, margin, 10))
    values = [y for points in means.values() for _, y in points]
    if logarithmic:
        log_axis(axes, "y", [*values, *([reference[1]] if reference else [])])
    else:
        reach = max([*values, 1.0]) - min(values, default=0.0)
        axes.set_ylim(min(values, default=0.0) - 0.05 * reach, max([*values, 1.0]) + 0.02 * reach)
    axes.set_xlim(1 - 0.06 * (last - 1 or 1), last)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.grid(axis="y")
    axes.set(xlabel="requests so far", ylabel=label)
    ends: dict[str, float] = {}
    if reference:
        name, ends[name] = reference
        axes.axhline(ends[name], color=SENTINELS[colours[name]], linewidth=1.3, linestyle=DASHED)
    marks = zip(means.items(), itertools.cycle(MARKERS), strict=False)
    for (name, points), marker in sorted(marks, key=lambda mark: colours[mark[0][0]] != BESIDE):
        colour, plain = SENTINELS[colours[name]], colours[name] == BESIDE
        style: dict[str, Any] = {"color": colour, "zorder": 3 if plain else 4, "clip_on": False}
        if points:
            axes.plot(
                *zip(*points, strict=True), lw=1.0 if plain else 1.8, marker=marker,
                ms=4 if plain else 5, mfc=PAGE if plain else colour, mew=1.1, **style,
            )  # fmt: skip
            ends[name] = points[-1][1]
        for place, measured in enumerate(series[name], start=1):
            if measured and not plain:
                _bar(axes, "y", place, measured, colour)
    label_ends(axes, ends, colours)
    said = "; ".join(f"{name} ends at {value:.3f}" for name, value in ends.items())
    return to_svg(figure, key, f"{label} after each request: {said}.")


def _points(request: RequestSummary, cost: Cost) -> dict[str, tuple[Figure, Figure]]:
    return {
        name: (method.figures[cost.key], method.figures["forget_js"])
        for name, method in request.methods.items()
        if {cost.key, "forget_js"} <= method.figures.keys()
    }


def _retraining(axes: Axes, at: float, cost: Cost, colour: str) -> None:
    axes.axvline(at, color=colour, linewidth=1.3, linestyle=DASHED)
    place = axes.transAxes.inverted().transform(axes.transData.transform((at, 1.0)))[0]
    side = "right" if place > 0.6 else "center"
    text = f"retraining: {cost.write(float(f'{at:.3g}'))}"
    note(axes, text, (at, 1.0), (0, 6), ("data", AXES), ha=side, color=colour)


def _draw_front(axes: Axes, corners: Sequence[Point]) -> list[Point]:
    """Draw the least forget JS that can be had for each cost; return its steps."""
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    steps = [(corners[0][0], top)]
    for x, y in (*corners, (right, corners[-1][1])):
        steps += [(x, steps[-1][1]), (x, y)]
    axes.plot(*zip(*steps, strict=True), color=INK, linewidth=1.1, zorder=2)
    return steps


def _bar(axes: Axes, which: str, at: float, figure: Figure, colour: str) -> None:
    """Draw a spread to both sides of a mean, cut at the edge of the axes."""
    if not figure.spread:
        return
    low = figure.mean - figure.spread
    edge = axes.get_xlim()[0] if which == "x" else axes.get_ylim()[0]
    ends = max(low, edge), figure.mean + figure.spread
    places = [(end, at) if which == "x" else (at, end) for end in ends]
    axes.plot(
        *zip(*places, strict=True), color=colour, linewidth=1.0, zorder=3,
        marker="|" if which == "x" else "_", ms=5, mew=1.0,
        alpha=0.55 if colour == SENTINELS[BESIDE] else 1.0,
    )  # fmt: skip


class _Marks:
    """Points of a figure, and the space that they leave for their names."""

    def __init__(self, axes: Axes, width: float, height: float) -> None:
        self._axes = axes
        self._taken: list[Box] = []
        left, bottom, right, top = axes.get_position().extents
        self._bounds: Box = (left * width + 2, bottom * height + 2, right * width, top * height)

    def point(self, x: Figure, y: Figure, *, colour: str) -> None:
        """Draw a point with its spreads: ours round, of the front square, the rest hollow."""
        shade, plain = SENTINELS[colour], colour == BESIDE
        marker = "s" if colour == LAST else "o"
        self._axes.plot(
            x.mean, y.mean, marker=marker, ls="none", ms=5 if plain else 6.5, mew=1.3, zorder=5,
            mec=shade, mfc=PAGE if plain else shade, clip_on=False,
        )  # fmt: skip
        _bar(self._axes, "x", y.mean, x, shade)
        _bar(self._axes, "y", x.mean, y, shade)
        across, up = self._pixels(x.mean, y.mean)
        self._taken.append((across - 5, up - 5, across + 5, up + 5))
        low = max(y.mean - (y.spread or 0.0), self._axes.get_ylim()[0])
        ends = [self._pixels(x.mean, end)[1] for end in (low, y.mean + (y.spread or 0.0))]
        self._taken.append((across - 1, ends[0], across + 1, ends[1]))

    def keep_off(self, start: Point, end: Point) -> None:
        """Keep names off a level or upright line."""
        (x, y), (right, top) = sorted((self._pixels(*start), self._pixels(*end)))
        self._taken.append((x - 3, min(y, top) - 1, right + 3, max(y, top) + 1))

    def names(self, points: Mapping[str, Point], colours: Mapping[str, str]) -> None:
        """Write the names, the first nearest to its point."""
        anchors = [self._pixels(*point) for point in points.values()]
        sizes = [(GLYPH * len(name), LINE) for name in points]
        boxes = place_labels(anchors, sizes, self._taken, self._bounds)
        back = self._axes.transData.inverted()
        for name, anchor, box in zip(points, anchors, boxes, strict=True):
            plain = colours[name] == BESIDE
            colour = SENTINELS[colours[name]]
            side, across = "center", (box[0] + box[2]) / 2
            if box[0] > anchor[0]:
                side, across = "left", box[0]
            elif box[2] < anchor[0]:
                side, across = "right", box[2]
            x, y = back.transform((across, (box[1] + box[3]) / 2))
            self._axes.text(
                x, y, name, ha=side, va="center_baseline", color=colour, zorder=4.5,
                fontsize=10.5, fontweight="normal" if plain else "bold",
                bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 0.5, "alpha": 0.75},
            )  # fmt: skip
            end = leader(anchor, box)
            if end:
                line = back.transform([anchor, end])
                self._axes.plot(line[:, 0], line[:, 1], color=colour, linewidth=0.7, zorder=2.5)

    def _pixels(self, x: float, y: float) -> tuple[float, float]:
        across, up = self._axes.transData.transform((x, y))
        return float(across), float(up)
