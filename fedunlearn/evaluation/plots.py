"""The report's figures, each as the text of one SVG element to stand inside a page.

Every colour is a CSS custom property of the page, so a figure follows it from light to dark, and a
model has the same colour in all of them. No figure needs its colours to be read: lines carry their
names, and marks differ in shape. One unit is one CSS pixel at natural size; text stays text, in the
page's own font.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from fedunlearn.evaluation.evidence import ForgottenExample
from fedunlearn.solvers.weight import ACCEPTABLE

Point = tuple[float, float]
Curve = Sequence[Point]

METHOD_COLOURS = 6
NUMBERED_CLASSES = 12
GAIN_RANGE = (-0.5, 2.5)

_VARIABLES = (
    *("page", "ink", "muted", "rule", "heat", "floor", "trained", "retrained"),
    *(f"method-{number}" for number in range(1, METHOD_COLOURS + 1)),
)
# Matplotlib wants real colours; these stand for the variables until the SVG is cleaned.
_SENTINELS = {name: f"#0000{number:02x}" for number, name in enumerate(_VARIABLES, start=1)}
_PAGE, _INK, _MUTED, _RULE, _HEAT = list(_SENTINELS.values())[:5]
_AXES = "axes fraction"
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedunlearn",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "axes.labelpad": 7,
    "text.color": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    **dict.fromkeys(("axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _MUTED),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.8),
}
_DASHED = (0, (5, 3))


def colour_names(methods: Iterable[str]) -> dict[str, str]:
    """Return the CSS variable of every model, without its dashes; methods by their order."""
    numbered = {
        name: f"method-{number % METHOD_COLOURS + 1}" for number, name in enumerate(methods)
    }
    return {"trained": "trained", **numbered, "retrained": "retrained", "floor": "floor"}


@matplotlib.rc_context(_STYLE)
def forget_curves(
    curves: Mapping[str, Curve],
    references: Mapping[str, float],
    *,
    colours: Mapping[str, str],
    provisional: Mapping[str, int],
    key: str,
) -> str:
    """Draw divergence on the forget set against rounds.

    Args:
        curves: Method to (rounds, divergence), ascending.
        references: Model to the divergence that a horizontal line marks.
        colours: As of ``colour_names``.
        provisional: Method to how many points after its first are drawn hollow.
        key: Unique in the page.

    Returns:
        SVG.
    """
    curves = {name: [p for p in curve if _finite(*p)] for name, curve in curves.items()}
    references = {name: value for name, value in references.items() if _finite(value)}
    last = max((curve[-1][0] for curve in curves.values() if curve), default=0) or 1
    margin = 24 + 6.8 * max((len(name) for name in [*curves, *references]), default=0)
    figure, axes = _figure(560, 330, (80, 46, margin, 10))
    ends = dict(references)
    for name, value in references.items():
        axes.axhline(value, color=_SENTINELS[colours[name]], linewidth=1.3, linestyle=_DASHED)
    for (name, curve), marker in zip(curves.items(), itertools.cycle(_MARKERS), strict=False):
        colour = _SENTINELS[colours[name]]
        axes.plot(*zip(*curve, strict=True), color=colour, linewidth=1.7, zorder=3)
        for place, (x, y) in enumerate(curve):
            hollow = 1 <= place <= provisional.get(name, 0)
            _dot(axes, x, y, colours[name], marker=marker, filled=not hollow)
        if curve:
            ends[name] = curve[-1][1]
            axes.hlines(ends[name], curve[-1][0], last, color=colour, lw=0.9, linestyle=":")
    _log_axis(axes, "y", [y for curve in curves.values() for _, y in curve] + [*ends.values()])
    axes.set_xlim(-0.04 * last, last)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="y")
    axes.set(xlabel="rounds", ylabel="forget JS (nats)")
    _label_ends(axes, ends, colours)
    said = "; ".join(f"{name} ends at {value:.4f}" for name, value in ends.items())
    return _svg(figure, key, f"Divergence on the forget set against rounds: {said}.")


@matplotlib.rc_context(_STYLE)
def heat_map(
    probabilities: Tensor, labels: Sequence[int], counts: Sequence[int], *, model: str, key: str
) -> str:
    """Draw the mean prediction on the examples of each label.

    Args:
        probabilities: (labels, classes).
        labels: Of the rows; a class's own column is outlined.
        counts: Examples behind each row.
        model: Whose predictions these are.
        key: Unique in the page.

    Returns:
        SVG.
    """
    values = probabilities.numpy()
    rows, classes = values.shape
    detailed = max(rows, classes) <= NUMBERED_CLASSES
    height = 25.0 if detailed else max(3.0, 300.0 / rows)
    figure, axes = _figure(480, 54 + rows * height, (82, 46, 4, 8))
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(rows - 0.5, -0.5))
    inked = [(row, column) for (row, column), value in np.ndenumerate(values) if value >= 0.005]
    alphas = [(_HEAT, min(1.0, float(values[cell]))) for cell in inked]
    axes.add_collection(_cells(inked, facecolors=alphas, linewidths=0))
    true = [(row, label) for row, label in enumerate(labels) if label < classes]
    axes.add_collection(_cells(true, facecolors="none", edgecolors=_INK, linewidths=0.9))
    for row, column in inked if detailed else ():
        if values[row, column] >= 0.05:
            text = f"{values[row, column]:.2f}".removeprefix("0")
            axes.text(column, row, text, ha="center", va="center_baseline", fontsize=10.5)
    axes.set_frame_on(False)
    axes.tick_params(length=0)
    shown = range(rows) if detailed else range(0, rows, math.ceil(rows / 20))
    axes.set_yticks(list(shown), [f"{labels[row]}  ({counts[row]})" for row in shown])
    axes.xaxis.set_major_locator(
        FixedLocator(list(range(classes))) if detailed else MaxNLocator(12, integer=True)
    )
    axes.set(xlabel="predicted class", ylabel="true label (examples)")
    said = ", ".join(f"{label}: {values[row, label]:.2f}" for row, label in true)
    return _svg(figure, key, f"{model}: mean probability of the true label, by label: {said}.")


@matplotlib.rc_context(_STYLE)
def example_bars(example: ForgottenExample, *, colours: Mapping[str, str], key: str) -> str:
    """Draw one example and what every model predicts for it.

    Args:
        example: With or without an image.
        colours: As of ``colour_names``.
        key: Unique in the page.

    Returns:
        SVG.
    """
    models = {name: vector.numpy() for name, vector in example.probabilities.items()}
    classes = max(len(vector) for vector in models.values())
    names = 10 + 6.4 * max(len(name) for name in models)
    picture = 0.0 if example.image is None else 92.0
    step, bottom = 34.0, 24.0
    width, height = 470.0, bottom + 4 + step * max(len(models), 3)
    figure, axes = _figure(width, height, (picture + names, bottom, 46, 4))
    axes.set(xlim=(-0.6, classes - 0.4), ylim=(len(models), 0))
    target = example.target
    axes.axvspan(target - 0.5, target + 0.5, color=_RULE, linewidth=0, zorder=0)
    for row, (name, vector) in enumerate(models.items()):
        colour, base = _SENTINELS[colours[name]], row + 0.92
        shares = np.nan_to_num(vector)
        axes.bar(range(len(shares)), -0.8 * shares, bottom=base, width=0.72, color=colour, zorder=2)
        axes.axhline(base, color=_MUTED, linewidth=0.8, zorder=3)
        middle = 1 - (row + 0.55) / len(models)
        axes.text(-0.02, middle, name, transform=axes.transAxes, ha="right", va="center")
        if target < len(vector):
            share = f"{100 * float(vector[target]):.0f} %"
            axes.text(1.02, middle, share, transform=axes.transAxes, va="center", color=_MUTED)
    axes.set_frame_on(False)
    axes.tick_params(length=0, pad=2)
    axes.yaxis.set_major_locator(NullLocator())
    every = 1 if classes <= NUMBERED_CLASSES else math.ceil(classes / 8)
    free = [n for n in range(0, classes, every) if 2 * abs(n - target) >= every]
    axes.set_xticks(sorted({*free, target}))
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        if tick == target:
            label.set(fontweight="bold", color=_INK)
    if example.image is not None:
        side = picture - 8
        box = figure.add_axes((0.0, 1 - (side + 4) / height, side / width, side / height))
        box.imshow(example.image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
        box.set_axis_off()
    said = ", ".join(
        f"{name} {float(vector[target]):.2f}" for name, vector in models.items() if target < classes
    )
    return _svg(figure, key, f"Example of class {target}; probability given to it: {said}.")


@matplotlib.rc_context(_STYLE)
def spectrum(ritz_values: Sequence[float], damping: float | None, *, colour: str, key: str) -> str:
    """Draw Ritz values by magnitude, negative ones hollow, and the damping as a line.

    Args:
        ritz_values: Ascending.
        damping: In their units; no line where it is None or 0.
        colour: CSS variable, without its dashes.
        key: Unique in the page.

    Returns:
        SVG.
    """
    figure, axes = _figure(480, 280, (78, 46, 80, 10))
    shown = [value for value in ritz_values if _finite(value) and value != 0.0]
    line = damping if damping and _finite(damping) else None
    _log_axis(axes, "y", [abs(value) for value in shown] + ([line] if line else []))
    bottom = axes.get_ylim()[0]
    if line:
        axes.axhspan(bottom, line, color=_RULE, alpha=0.6, linewidth=0, zorder=0)
        axes.axhline(line, color=_INK, linewidth=1.2, linestyle=_DASHED, zorder=2)
        _note(axes, f"damping\n{line:.3g}", (1, line), (6, 0), (_AXES, "data"), va="center")
    places = range(1, len(shown) + 1)
    axes.vlines(places, bottom, [abs(v) for v in shown], color=_SENTINELS[colour], linewidth=1.4)
    for place, value in zip(places, shown, strict=True):
        _dot(axes, place, abs(value), colour, marker="o" if value > 0 else "v", filled=value > 0)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    axes.set_xlim(0.4, len(shown) + 0.6)
    negative = sum(value < 0 for value in shown)
    axes.set(xlabel="direction, by curvature", ylabel="|Ritz value|" if negative else "Ritz value")
    said = f"{min(shown):.3g} to {max(shown):.3g}, {negative} negative" if shown else "none"
    return _svg(figure, key, f"Ritz values: {said}; damping: {damping or 0:.3g}.")


@matplotlib.rc_context(_STYLE)
def gain_ratios(
    candidates: Sequence[Mapping[str, Any]], weight: float, *, colour: str, key: str
) -> str:
    """Draw the gain ratio of every candidate weight, with the window of acceptable ones.

    Args:
        candidates: With ``weight``, ``gain`` and ``acceptable``.
        weight: The chosen one.
        colour: CSS variable, without its dashes.
        key: Unique in the page.

    Returns:
        SVG.
    """
    figure, axes = _figure(480, 280, (62, 46, 86, 24))
    shown = [
        c for c in candidates if _finite(c["weight"], c.get("gain", math.nan)) and c["weight"] > 0.0
    ]
    gains = [min(max(c["gain"], GAIN_RANGE[0]), GAIN_RANGE[1]) for c in shown]
    low, high = ACCEPTABLE
    axes.set_ylim(min([low, *gains]) - 0.12, max([high, *gains]) + 0.12)
    _log_axis(axes, "x", [c["weight"] for c in shown] + ([weight] if weight > 0.0 else []))
    axes.axhspan(low, high, color=_HEAT, alpha=0.16, linewidth=0, zorder=0)
    axes.axhline(1.0, color=_MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    _note(axes, f"acceptable\n{low:g} to {high:g}", (1, 1), (6, 0), (_AXES, "data"), va="center")
    for candidate, gain in zip(shown, gains, strict=True):
        outside = gain != candidate["gain"]
        marker = ("^" if gain > 1 else "v") if outside else "o"
        _dot(axes, candidate["weight"], gain, colour, marker=marker, filled=candidate["acceptable"])
        if outside:
            text, side = f"{candidate['gain']:.3g}", -13 if gain > 1 else 7
            _note(axes, text, (candidate["weight"], gain), (0, side), "data", ha="center")
    if weight > 0.0:
        axes.axvline(weight, color=_INK, linewidth=1.2, linestyle=_DASHED, zorder=2)
        _note(axes, f"chosen: {weight:.3g}", (weight, 1), (0, 5), ("data", _AXES), ha="center")
    axes.grid(axis="y")
    axes.set(xlabel="cubic weight M", ylabel="gain ratio")
    said = ", ".join(f"{c['weight']:.3g}: {c['gain']:.2f}" for c in shown)
    return _svg(figure, key, f"Gain ratio by cubic weight: {said}; chosen {weight:.3g}.")


def _figure(width: float, height: float, margins: Sequence[float]) -> tuple[Figure, Axes]:
    """Make a figure with one axes; margins are left, bottom, right, top, all in pixels."""
    left, bottom, right, top = margins
    figure = Figure(figsize=(width / 72, height / 72))
    inner = (width - left - right) / width, (height - bottom - top) / height
    return figure, figure.add_axes((left / width, bottom / height, *inner))


def _cells(cells: Iterable[tuple[int, int]], **style: Any) -> PatchCollection:
    boxes = [Rectangle((column - 0.47, row - 0.47), 0.94, 0.94) for row, column in cells]
    return PatchCollection(boxes, **style)


def _log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Scale an axis logarithmically around values; linearly below the least where one is zero."""
    least = min((value for value in values if value > 0.0), default=1.0)
    low, high = least / 1.35, max([least, *values]) * 1.35
    ticks, scale = _log_ticks(low, high), "log"
    if min([least, *values]) <= 0.0:
        low, ticks, scale = -0.1 * least, [0.0, *ticks], "symlog"
    getattr(axes, f"set_{which}scale")(
        scale, **({} if scale == "log" else {"linthresh": least, "linscale": 0.5})
    )
    getattr(axes, f"set_{which}lim")(low, high)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two positive ones: about four to eight of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    return ticks[:: math.ceil(len(ticks) / 8)] if ticks else []


def _label_ends(axes: Axes, ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Write every line's name at its right end, moved apart where they would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = {name: float(to_axes.transform((0, value))[1]) for name, value in ends.items()}
    order = sorted(wanted, key=lambda name: wanted[name])
    for name, place in zip(order, _apart([wanted[n] for n in order], 0.055), strict=True):
        style: dict[Any, Any] = {"color": _SENTINELS[colours[name]], "transform": axes.transAxes}
        axes.plot((1.0, 1.025), (wanted[name], place), linewidth=0.9, clip_on=False, **style)
        axes.text(1.035, place, name, va="center_baseline", **style)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Return ascending places moved to lie a gap apart: half way between pushed up and down."""
    up = itertools.accumulate(places, lambda below, place: max(place, below + gap))
    down = itertools.accumulate(places[::-1], lambda above, place: min(place, above - gap))
    return [(high + low) / 2 for high, low in zip(up, list(down)[::-1], strict=True)]


def _note(axes: Axes, text: str, xy: Point, offset: Point, place: Any, **alignment: Any) -> None:
    axes.annotate(text, xy, offset, place, "offset points", **alignment)


def _dot(
    axes: Axes, x: float, y: float, colour: str, *, marker: str = "o", filled: bool = True
) -> None:
    edge, face = _SENTINELS[colour], _SENTINELS[colour] if filled else _PAGE
    style: dict[Any, Any] = {"ms": 5, "mew": 1.3, "ls": "none", "zorder": 4, "clip_on": False}
    axes.plot(x, y, marker=marker, markeredgecolor=edge, markerfacecolor=face, **style)


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def _svg(figure: Figure, key: str, label: str) -> str:
    """Return a figure as an SVG element that can stand in a page beside others."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    # Its style sheet would apply to the whole page.
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text[text.index("<svg") :], flags=re.S
    )
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    body = re.sub(r"<[^>]+>", lambda match: _clean(match[0], key, used), text)
    width, height = (figure.get_size_inches() * 72).round(2)
    opening = (
        f'<svg class="plot" role="img" aria-label="{escape(label)}" '
        f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}">'
    )
    return opening + re.sub(r"\n\s*", "\n", body[body.index(">") + 1 :]).strip()


def _clean(tag: str, key: str, used: set[str]) -> str:
    """Return a tag with colours as variables, the page's font, and ids of this figure alone."""
    tag = re.sub(r"#0000([0-9a-f]{2})\b", _variable, tag)
    tag = re.sub(r"font-family: [^;\"]*(; )?", "", tag)
    tag = tag.replace("xlink:href", "href")
    tag = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{key}-", tag)
    return re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", tag)


def _variable(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return f"var(--{_VARIABLES[number - 1]})" if 1 <= number <= len(_VARIABLES) else match[0]
