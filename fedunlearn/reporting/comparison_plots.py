"""The figures of a comparison: quality against cost, and the course of a sequence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedunlearn.reporting.pareto import pareto_front
from fedunlearn.reporting.seed_summary import BYTES, Figure, RequestSummary, ScenarioSummary
from fedunlearn.reporting.svg import (
    AXES,
    DASHED,
    INK,
    MARKERS,
    METHOD_COLOURS,
    MUTED,
    PAGE,
    SENTINELS,
    STYLE,
    Point,
    label_ends,
    log_axis,
    move_apart,
    new_figure,
    note,
    to_svg,
)
from fedunlearn.reporting.table_columns import byte_unit

OURS = ("cubic-newton", "instant-cubic-newton")
SPACING = 12.0  # pixels between the points that stand for a line when names are placed
NEAR_ZERO = 0.2  # decades between zero and the smallest cost
Line = tuple[Point, Point]

BESIDE, LAST = "muted", "ink"


@dataclass(frozen=True)
class CostAxis:
    """A horizontal axis.

    Attributes:
        key: Key of the cost.
        label: Text below the axis.
        write: Formats a value.
    """

    key: str
    label: str
    write: Callable[[float], str]


def _write_bytes(value: float) -> str:
    size, unit = byte_unit(value)
    return f"{value / size:g} {unit}" if value else "0"


COSTS = (
    CostAxis("rounds", "rounds", "{:g}".format),
    CostAxis(BYTES, "bytes, up and down", _write_bytes),
    CostAxis("gradient_equivalents", "gradients", "{:g}".format),
)


def cost_front(request: RequestSummary, cost: CostAxis) -> tuple[str, ...]:
    """Return the methods that no other beats in both mean forget JS and mean cost.

    Args:
        request: The results of the request.
        cost: The cost.

    Returns:
        Their names, by ascending cost.
    """
    return pareto_front({name: (x.mean, y.mean) for name, (x, y) in _points(request, cost).items()})


def colours_of(summary: ScenarioSummary) -> dict[str, str]:
    """Return the CSS variable of every model, without its dashes.

    Args:
        summary: The scenario; its last request decides.

    Returns:
        A colour of its own for each variant of cubic Newton, ink for methods on some front, and
        muted for the rest.
    """
    request = summary.requests[-1]
    ours = [name for name in request.methods if summary.registered_name(name) in OURS]
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
    request: RequestSummary, cost: CostAxis, *, colours: Mapping[str, str], key: str
) -> Markup:
    """Draw every method's forget JS against its cost, and the front.

    Args:
        request: The results of the request.
        cost: The horizontal axis; logarithmic, with zero where a cost is zero.
        colours: CSS variables as ``colours_of`` returns them.
        key: Name of the figure, unique in the page.

    Returns:
        The SVG element; empty where no method has this cost.
    """
    points = _points(request, cost)
    if not points:
        return Markup()
    front = cost_front(request, cost)
    references = {
        name: figures["forget_js"].mean
        for name, figures in (("trained", request.trained), ("floor", request.floor))
        if "forget_js" in figures
    }
    figure, axes = new_figure(660, 460, (66, 48, 62, 24))
    retraining = request.retrained.get(cost.key)
    xs = [x.mean + d * (x.spread or 0.0) for x, _ in points.values() for d in (0, 1)]
    ys = [y.mean + d * (y.spread or 0.0) for _, y in points.values() for d in (0, 1)]
    log_axis(axes, "x", xs + ([retraining.mean] if retraining else []), cost.write, NEAR_ZERO)
    log_axis(axes, "y", ys + list(references.values()))
    axes.grid(axis="y")
    axes.set(xlabel=cost.label, ylabel="forget JS (nats)")
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
    shades = {
        name: BESIDE if colours[name] == LAST and name not in front else colours[name]
        for name in points
    }
    order = sorted(points, key=lambda name: (shades[name] == BESIDE, name not in front))
    for name in reversed(order):
        lines += _draw_point(axes, *points[name], colour=shades[name])
    _name_points(axes, {name: points[name] for name in order}, shades, lines)
    listed = "; ".join(
        f"{name} {y.mean:.4f} at {cost.write(x.mean)}" for name, (x, y) in points.items()
    )
    return to_svg(
        figure, key, f"Forget JS against {cost.label}: {listed}. On the front: {', '.join(front)}."
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
) -> Markup:
    """Draw a metric after every request of a sequence.

    Args:
        series: Model to the metric after each request; None where it was not measured.
        label: Name of the metric.
        reference: Name and value of a horizontal line.
        logarithmic: Whether the vertical axis is logarithmic.
        colours: CSS variables as ``colours_of`` returns them; muted models have no bars of spread.
        key: Name of the figure, unique in the page.

    Returns:
        The SVG element.
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
    listed = "; ".join(f"{name} ends at {value:.3f}" for name, value in ends.items())
    return to_svg(figure, key, f"{label} after each request: {listed}.")


def _points(request: RequestSummary, cost: CostAxis) -> dict[str, tuple[Figure, Figure]]:
    return {
        name: (method.figures[cost.key], method.figures["forget_js"])
        for name, method in request.methods.items()
        if {cost.key, "forget_js"} <= method.figures.keys()
    }


def _retraining(axes: Axes, at: float, cost: CostAxis, colour: str) -> None:
    axes.axvline(at, color=colour, linewidth=1.3, linestyle=DASHED)
    place = axes.transAxes.inverted().transform(axes.transData.transform((at, 1.0)))[0]
    side = "right" if place > 0.6 else "center"
    text = f"retraining: {cost.write(float(f'{at:.3g}'))}"
    note(axes, text, (at, 1.0), (0, 6), ("data", AXES), ha=side, color=colour)


def _draw_front(axes: Axes, corners: Sequence[Point]) -> list[Point]:
    """Draw the lowest forget JS for each cost, and return the steps of the line."""
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


def _draw_point(axes: Axes, x: Figure, y: Figure, *, colour: str) -> list[Line]:
    """Draw a point and its spreads.

    Variants of cubic Newton are filled circles, others on the front are squares, the rest hollow.

    Returns:
        The line of the upright spread, which names must not cover.
    """
    shade, plain = SENTINELS[colour], colour == BESIDE
    marker = "s" if colour == LAST else "o"
    axes.plot(
        x.mean, y.mean, marker=marker, ls="none", ms=5 if plain else 6.5, mew=1.3, zorder=5,
        mec=shade, mfc=PAGE if plain else shade, clip_on=False,
    )  # fmt: skip
    _bar(axes, "x", y.mean, x, shade)
    _bar(axes, "y", x.mean, y, shade)
    low = max(y.mean - (y.spread or 0.0), axes.get_ylim()[0])
    return [((x.mean, low), (x.mean, y.mean + (y.spread or 0.0)))]


def _name_points(
    axes: Axes,
    points: Mapping[str, tuple[Figure, Figure]],
    colours: Mapping[str, str],
    lines: Sequence[Line],
) -> None:
    """Write the names of points where they cover no point and no line."""
    texts = [
        axes.text(
            x.mean, y.mean, name, color=SENTINELS[colours[name]], zorder=4.5, fontsize=10.5,
            ha="center", va="center", fontweight="normal" if colours[name] == BESIDE else "bold",
            bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 0.5, "alpha": 0.75},
        )
        for name, (x, y) in points.items()
    ]  # fmt: skip
    obstacles = [point for line in lines for point in _along(axes, *line)]
    line = {"arrowstyle": "-", "linewidth": 0.7, "color": MUTED, "zorder": 2.5}
    move_apart(axes, texts, obstacles=obstacles, arrows=line)


def _along(axes: Axes, start: Point, end: Point) -> list[Point]:
    """Return points along a line, evenly apart on the page."""
    first, last = axes.transData.transform([start, end])
    shares = np.linspace(0.0, 1.0, 2 + int(np.hypot(*(last - first)) / SPACING))[:, None]
    places = axes.transData.inverted().transform(first + shares * (last - first))
    return [(float(x), float(y)) for x, y in places]
