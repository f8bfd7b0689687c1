"""The figures of a run's report. A model has the same colour in all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from fedunlearn.reporting.forget_set_predictions import ExamplePredictions
from fedunlearn.reporting.svg import (
    AXES,
    DASHED,
    HEAT,
    INK,
    MARKERS,
    METHOD_COLOURS,
    MUTED,
    RULE,
    SENTINELS,
    STYLE,
    Point,
    dot,
    label_ends,
    log_axis,
    new_figure,
    note,
    to_svg,
)
from fedunlearn.solvers.weight import ACCEPTABLE

Curve = Sequence[Point]

NUMBERED_CLASSES = 12
UPRIGHT = 3  # characters of a class's name that fit below its column
LONGEST_NAME = 14
GAIN_RANGE = (-0.5, 2.5)


@dataclass(frozen=True)
class CandidateWeight:
    """One cubic weight that a method tried.

    Attributes:
        weight: The weight.
        gain: Change of the objective over the predicted change; None where it is no number.
        acceptable: Whether the gain lies in the window of acceptable ones.
    """

    weight: float
    acceptable: bool
    gain: float | None = None


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def colour_names(methods: Iterable[str]) -> dict[str, str]:
    """Return the CSS variable of every model, without its dashes; methods by their order."""
    numbered = {
        name: f"method-{number % METHOD_COLOURS + 1}" for number, name in enumerate(methods)
    }
    return {"trained": "trained", **numbered, "retrained": "retrained", "floor": "floor"}


@matplotlib.rc_context(STYLE)
def forget_curves(
    curves: Mapping[str, Curve],
    references: Mapping[str, float],
    *,
    colours: Mapping[str, str],
    provisional: Mapping[str, int],
    key: str,
) -> Markup:
    """Draw divergence on the forget set against rounds.

    Args:
        curves: Method to (rounds, divergence), ascending.
        references: Model to the divergence that a horizontal line marks.
        colours: CSS variables as ``colour_names`` returns them.
        provisional: Method to the number of points after its first that are drawn hollow.
        key: Name of the figure, unique in the page.

    Returns:
        The SVG element.
    """
    last = max((curve[-1][0] for curve in curves.values() if curve), default=0) or 1
    margin = 24 + 6.8 * max((len(name) for name in [*curves, *references]), default=0)
    figure, axes = new_figure(560, 330, (80, 46, margin, 10))
    ends = dict(references)
    for name, value in references.items():
        axes.axhline(value, color=SENTINELS[colours[name]], linewidth=1.3, linestyle=DASHED)
    for (name, curve), marker in zip(curves.items(), itertools.cycle(MARKERS), strict=False):
        colour = SENTINELS[colours[name]]
        axes.plot(*zip(*curve, strict=True), color=colour, linewidth=1.7, zorder=3)
        for place, (x, y) in enumerate(curve):
            hollow = 1 <= place <= provisional.get(name, 0)
            dot(axes, x, y, colours[name], marker=marker, filled=not hollow)
        if curve:
            ends[name] = curve[-1][1]
            axes.hlines(ends[name], curve[-1][0], last, color=colour, lw=0.9, linestyle=":")
    log_axis(axes, "y", [y for curve in curves.values() for _, y in curve] + [*ends.values()])
    axes.set_xlim(-0.04 * last, last)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="y")
    axes.set(xlabel="rounds", ylabel="forget JS (nats)")
    label_ends(axes, ends, colours)
    summary = "; ".join(f"{name} ends at {value:.4f}" for name, value in ends.items())
    return to_svg(figure, key, f"Divergence on the forget set against rounds: {summary}.")


@matplotlib.rc_context(STYLE)
def heat_map(
    probabilities: Tensor,
    labels: Sequence[int],
    counts: Sequence[int],
    *,
    name: Callable[[int], str] = str,
    model: str,
    key: str,
) -> Markup:
    """Draw the mean prediction on the examples of each label.

    Args:
        probabilities: Mean probabilities (labels, classes).
        labels: Labels of the rows; the true class of a row is outlined.
        counts: Number of examples of each row.
        name: Returns the name of a class.
        model: Name of the model.
        key: Name of the figure, unique in the page.

    Returns:
        The SVG element.
    """
    values = probabilities.numpy()
    rows, classes = values.shape
    detailed = max(rows, classes) <= NUMBERED_CLASSES
    height = 25.0 if detailed else max(3.0, 300.0 / rows)
    ticks = [_short(name(number)) for number in range(classes)] if detailed else []
    upright = max(map(len, ticks), default=0) > UPRIGHT
    bottom = 46.0 + (5.4 * max(map(len, ticks)) if upright else 0.0)
    longest = max((len(_short(name(label))) for label in labels), default=1)
    figure, axes = new_figure(
        480, 8 + bottom + rows * height, (75 + 6.6 * min(longest, LONGEST_NAME), bottom, 4, 8)
    )
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(rows - 0.5, -0.5))
    inked = [(row, column) for (row, column), value in np.ndenumerate(values) if value >= 0.005]
    alphas = [(HEAT, min(1.0, float(values[cell]))) for cell in inked]
    axes.add_collection(_cells(inked, facecolors=alphas, linewidths=0))
    true = [(row, label) for row, label in enumerate(labels) if label < classes]
    axes.add_collection(_cells(true, facecolors="none", edgecolors=INK, linewidths=0.9))
    for row, column in inked if detailed else ():
        if values[row, column] >= 0.05:
            text = f"{values[row, column]:.2f}".removeprefix("0")
            axes.text(column, row, text, ha="center", va="center_baseline", fontsize=10.5)
    axes.set_frame_on(False)
    axes.tick_params(length=0)
    shown = range(rows) if detailed else range(0, rows, math.ceil(rows / 20))
    axes.set_yticks(list(shown), [f"{_short(name(labels[row]))}  ({counts[row]})" for row in shown])
    if detailed:
        axes.set_xticks(range(classes), ticks, rotation=90 if upright else 0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    tall = rows * height >= 100.0
    axes.set(xlabel="predicted class", ylabel="true label (examples)" if tall else "")
    summary = ", ".join(f"{name(label)}: {values[row, label]:.2f}" for row, label in true)
    return to_svg(figure, key, f"{model}: mean probability of the true label, by label: {summary}.")


@matplotlib.rc_context(STYLE)
def example_bars(
    example: ExamplePredictions,
    *,
    name: Callable[[int], str] = str,
    colours: Mapping[str, str],
    key: str,
) -> Markup:
    """Draw one example and what every model predicts for it.

    Args:
        example: The example, with or without an image.
        name: Returns the name of a class.
        colours: CSS variables as ``colour_names`` returns them.
        key: Name of the figure, unique in the page.

    Returns:
        The SVG element.
    """
    models = {name: vector.numpy() for name, vector in example.probabilities.items()}
    classes = max(len(vector) for vector in models.values())
    names = 10 + 6.4 * max(map(len, models))
    picture = 0.0 if example.image is None else 92.0
    step, bottom = 34.0, 24.0
    width, height = 470.0, bottom + 4 + step * max(len(models), 3)
    figure, axes = new_figure(width, height, (picture + names, bottom, 46, 4))
    axes.set(xlim=(-0.6, classes - 0.4), ylim=(len(models), 0))
    target = example.target
    axes.axvspan(target - 0.5, target + 0.5, color=RULE, linewidth=0, zorder=0)
    for row, (model, vector) in enumerate(models.items()):
        colour, base = SENTINELS[colours[model]], row + 0.92
        shares = np.nan_to_num(vector)
        axes.bar(range(len(shares)), -0.8 * shares, bottom=base, width=0.72, color=colour, zorder=2)
        axes.axhline(base, color=MUTED, linewidth=0.8, zorder=3)
        middle = 1 - (row + 0.55) / len(models)
        axes.text(-0.02, middle, model, transform=axes.transAxes, ha="right", va="center")
        if target < len(vector):
            share = f"{100 * float(vector[target]):.0f} %"
            axes.text(1.02, middle, share, transform=axes.transAxes, va="center", color=MUTED)
    axes.set_frame_on(False)
    axes.tick_params(length=0, pad=2)
    axes.yaxis.set_major_locator(NullLocator())
    every = 1 if classes <= NUMBERED_CLASSES else math.ceil(classes / 8)
    free = [n for n in range(0, classes, every) if 2 * abs(n - target) >= every]
    shown = sorted({*free, target})
    plain = max(len(name(number)) for number in shown) <= UPRIGHT
    # Longer names would overlap: only the true class is named then.
    texts = [_short(name(n)) if plain or n == target else "" for n in shown]
    axes.set_xticks(shown, texts)
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        if tick == target:
            label.set(fontweight="bold", color=INK)
    if example.image is not None:
        side = picture - 8
        box = figure.add_axes((0.0, 1 - (side + 4) / height, side / width, side / height))
        box.imshow(example.image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
        box.set_axis_off()
    summary = ", ".join(
        f"{model} {float(vector[target]):.2f}"
        for model, vector in models.items()
        if target < classes
    )
    return to_svg(
        figure, key, f"Example of class {name(target)}; probability given to it: {summary}."
    )


@matplotlib.rc_context(STYLE)
def spectrum(
    ritz_values: Sequence[float], damping: float | None, *, colour: str, key: str
) -> Markup:
    """Draw Ritz values by magnitude, negative ones hollow, and the damping as a line.

    Args:
        ritz_values: Ritz values in ascending order.
        damping: The damping in their units; no line where it is None or 0.
        colour: CSS variable of the method, without its dashes.
        key: Name of the figure, unique in the page.

    Returns:
        The SVG element.
    """
    figure, axes = new_figure(480, 280, (78, 46, 80, 10))
    shown = [value for value in ritz_values if value != 0.0]
    line = damping or None
    log_axis(axes, "y", [abs(value) for value in shown] + ([line] if line else []))
    bottom = axes.get_ylim()[0]
    if line:
        axes.axhspan(bottom, line, color=RULE, alpha=0.6, linewidth=0, zorder=0)
        axes.axhline(line, color=INK, linewidth=1.2, linestyle=DASHED, zorder=2)
        note(axes, f"damping\n{line:.3g}", (1, line), (6, 0), (AXES, "data"), va="center")
    places = range(1, len(shown) + 1)
    axes.vlines(places, bottom, [abs(v) for v in shown], color=SENTINELS[colour], linewidth=1.4)
    for place, value in zip(places, shown, strict=True):
        dot(axes, place, abs(value), colour, marker="o" if value > 0 else "v", filled=value > 0)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.set_xlim(0.4, len(shown) + 0.6)
    negative = sum(value < 0 for value in shown)
    axes.set(xlabel="direction, by curvature", ylabel="|Ritz value|" if negative else "Ritz value")
    summary = f"{min(shown):.3g} to {max(shown):.3g}, {negative} negative" if shown else "none"
    return to_svg(figure, key, f"Ritz values: {summary}; damping: {damping or 0:.3g}.")


@matplotlib.rc_context(STYLE)
def gain_ratios(
    candidates: Sequence[CandidateWeight], weight: float, *, colour: str, key: str
) -> Markup:
    """Draw the gain ratio of every candidate weight, with the window of acceptable ones.

    Args:
        candidates: The weights that were tried.
        weight: The weight that was chosen.
        colour: CSS variable of the method, without its dashes.
        key: Name of the figure, unique in the page.

    Returns:
        The SVG element.
    """
    figure, axes = new_figure(480, 280, (62, 46, 86, 24))
    shown = [(c, c.gain) for c in candidates if c.gain is not None and c.weight > 0.0]
    gains = [min(max(gain, GAIN_RANGE[0]), GAIN_RANGE[1]) for _, gain in shown]
    low, high = ACCEPTABLE
    axes.set_ylim(min([low, *gains]) - 0.12, max([high, *gains]) + 0.12)
    log_axis(axes, "x", [c.weight for c, _ in shown] + ([weight] if weight > 0.0 else []))
    axes.axhspan(low, high, color=HEAT, alpha=0.16, linewidth=0, zorder=0)
    axes.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    note(axes, f"acceptable\n{low:g} to {high:g}", (1, 1), (6, 0), (AXES, "data"), va="center")
    for (candidate, measured), gain in zip(shown, gains, strict=True):
        outside = gain != measured
        marker = ("^" if gain > 1 else "v") if outside else "o"
        dot(axes, candidate.weight, gain, colour, marker=marker, filled=candidate.acceptable)
        if outside:
            text, side = f"{measured:.3g}", -13 if gain > 1 else 7
            note(axes, text, (candidate.weight, gain), (0, side), "data", ha="center")
    if weight > 0.0:
        axes.axvline(weight, color=INK, linewidth=1.2, linestyle=DASHED, zorder=2)
        note(axes, f"chosen: {weight:.3g}", (weight, 1), (0, 5), ("data", AXES), ha="center")
    axes.grid(axis="y")
    axes.set(xlabel="cubic weight M", ylabel="gain ratio")
    summary = ", ".join(f"{c.weight:.3g}: {gain:.2f}" for c, gain in shown)
    return to_svg(figure, key, f"Gain ratio by cubic weight: {summary}; chosen {weight:.3g}.")


def _cells(cells: Iterable[tuple[int, int]], **style: Any) -> PatchCollection:
    boxes = [Rectangle((column - 0.47, row - 0.47), 0.94, 0.94) for row, column in cells]
    return PatchCollection(boxes, **style)
