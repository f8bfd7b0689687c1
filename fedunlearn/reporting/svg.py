"""What figures are made with: each is the text of one SVG element to stand inside a page.

Every colour is a CSS custom property of the page, so a figure follows it from light to dark. No
figure needs its colours to be read: lines carry their names, and marks differ in shape. One unit is
one CSS pixel at natural size; text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

Point = tuple[float, float]

METHOD_COLOURS = 6
LABEL_GAP = 0.055

_VARIABLES = (
    *("page", "ink", "muted", "rule", "heat", "floor", "trained", "retrained"),
    *(f"method-{number}" for number in range(1, METHOD_COLOURS + 1)),
)
# Matplotlib wants real colours; these stand for the variables until the SVG is cleaned.
SENTINELS = {name: f"#0000{number:02x}" for number, name in enumerate(_VARIABLES, start=1)}
PAGE, INK, MUTED, RULE, HEAT = list(SENTINELS.values())[:5]
AXES = "axes fraction"
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedunlearn",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "axes.labelpad": 7,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    **dict.fromkeys(("axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.8),
}
DASHED = (0, (5, 3))


def new_figure(width: float, height: float, margins: Sequence[float]) -> tuple[Figure, Axes]:
    """Make a figure with one axes; margins are left, bottom, right, top, all in pixels."""
    left, bottom, right, top = margins
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    inner = (width - left - right) / width, (height - bottom - top) / height
    return figure, figure.add_axes((left / width, bottom / height, *inner))


def log_axis(
    axes: Axes,
    which: Literal["x", "y"],
    values: Sequence[float],
    write: Callable[[float], str] = "{:g}".format,
    linear: float = 0.5,
) -> None:
    """Scale an axis logarithmically around values; linearly below the least where one is zero.

    Args:
        axes: To scale.
        which: Of its axes.
        values: What has to find room.
        write: How a tick is written.
        linear: Decades that the linear part takes, if there is one.
    """
    least = min((value for value in values if value > 0.0), default=1.0)
    low, high = least / 1.35, max([least, *values]) * 1.35
    ticks, scale = _log_ticks(low, high), "log"
    if min([least, *values]) <= 0.0:
        low, ticks, scale = -0.1 * least, [0.0, *ticks], "symlog"
    getattr(axes, f"set_{which}scale")(
        scale, **({} if scale == "log" else {"linthresh": least, "linscale": linear})
    )
    getattr(axes, f"set_{which}lim")(low, high)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


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


def label_ends(axes: Axes, ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Write every line's name at its right end, moved apart where they would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = {name: float(to_axes.transform((0, value))[1]) for name, value in ends.items()}
    order = sorted(wanted, key=lambda name: wanted[name])
    gap = min(LABEL_GAP, 1 / max(1, len(order)))
    for name, place in zip(order, _apart([wanted[n] for n in order], gap), strict=True):
        style: dict[Any, Any] = {"color": SENTINELS[colours[name]], "transform": axes.transAxes}
        axes.plot((1.0, 1.025), (wanted[name], place), linewidth=0.9, clip_on=False, **style)
        axes.text(1.035, place, name, va="center_baseline", **style)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Return ascending places moved to lie a gap apart: half way between pushed up and down."""
    up = itertools.accumulate(places, lambda below, place: max(place, below + gap))
    down = itertools.accumulate(places[::-1], lambda above, place: min(place, above - gap))
    return [(high + low) / 2 for high, low in zip(up, list(down)[::-1], strict=True)]


def note(axes: Axes, text: str, xy: Point, offset: Point, place: Any, **alignment: Any) -> None:
    """Write beside a point; the offset is in pixels."""
    axes.annotate(text, xy, offset, place, "offset points", **alignment)


def dot(
    axes: Axes, x: float, y: float, colour: str, *, marker: str = "o", filled: bool = True
) -> None:
    """Draw one mark, whole also where it lies on the edge of the axes."""
    edge, face = SENTINELS[colour], SENTINELS[colour] if filled else PAGE
    style: dict[Any, Any] = {"ms": 5, "mew": 1.3, "ls": "none", "zorder": 4, "clip_on": False}
    axes.plot(x, y, marker=marker, markeredgecolor=edge, markerfacecolor=face, **style)


def finite(*values: float) -> bool:
    """Return whether all are numbers."""
    return all(math.isfinite(value) for value in values)


def to_svg(figure: Figure, key: str, label: str) -> str:
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
