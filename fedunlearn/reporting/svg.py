"""The figures' common parts: style, axes, labels, and the SVG element that stands inside a page.

Every colour is a CSS custom property of the page, so a figure follows it from light to dark. No
figure needs its colours to be read: lines carry their names, and marks differ in shape. One unit is
one CSS pixel at natural size; text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

Point = tuple[float, float]

METHOD_COLOURS = 6
LABEL_LEFT = 1.035  # of the width of the axes
# Labels in one column are cheap to move, and need more steps where many start at one place.
ITERATIONS = {"xy": 100, "y": 1000}

_VARIABLES = (
    *("page", "ink", "muted", "rule", "heat", "floor", "trained", "retrained"),
    *(f"method-{number}" for number in range(1, METHOD_COLOURS + 1)),
)
# Matplotlib wants real colours: each of these stands for a variable until the SVG is written.
SENTINELS = {name: f"#0000{number:02x}" for number, name in enumerate(_VARIABLES, start=1)}
_COLOURS = {colour: f"var(--{name})" for name, colour in SENTINELS.items()}
PAGE, INK, MUTED, RULE, HEAT = list(SENTINELS.values())[:5]
AXES = "axes fraction"
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedunlearn",  # the same ids in every run
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
        which: The axis.
        values: Values that have to be visible.
        write: Formats a tick.
        linear: Length of the linear part in decades, if there is one.
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
    texts = {
        name: axes.text(
            LABEL_LEFT, place, name, transform=axes.transAxes, va="center",
            color=SENTINELS[colours[name]],
        )
        for name, place in sorted(wanted.items(), key=lambda item: item[1])
    }  # fmt: skip
    move_apart(axes, list(texts.values()), only="y", inside=False)
    for name, text in texts.items():
        place = float(text.get_position()[1])
        text.set(ha="left", va="center_baseline", x=LABEL_LEFT)
        style: dict[Any, Any] = {"color": text.get_color(), "transform": axes.transAxes}
        axes.plot((1.0, 1.025), (wanted[name], place), linewidth=0.9, clip_on=False, **style)


def move_apart(
    axes: Axes,
    texts: Sequence[Text],
    *,
    obstacles: Sequence[Point] = (),
    only: Literal["xy", "y"] = "xy",
    inside: bool = True,
    arrows: Mapping[str, object] | None = None,
) -> None:
    """Move texts until they cover neither each other nor the obstacles.

    The same input gives the same places.

    Args:
        axes: The axes of the texts, to which nothing else is added later.
        texts: Texts at the points that they name.
        obstacles: Points in the coordinates of the texts.
        only: The directions in which texts may move.
        inside: Whether they stay inside the axes.
        arrows: Style of the line from a text to its point; None for no line.
    """
    from adjustText import adjust_text  # loads pyplot: only where labels are placed

    if not texts:
        return
    xs, ys = zip(*obstacles, strict=True) if obstacles else (None, None)
    adjust_text(
        list(texts), xs, ys, ax=axes, avoid_self=only == "xy", ensure_inside_axes=inside,
        only_move=dict.fromkeys(("text", "static", "explode", "pull"), only),
        iter_lim=ITERATIONS[only], arrowprops=dict(arrows or {}),
    )  # fmt: skip


def note(axes: Axes, text: str, xy: Point, offset: Point, place: Any, **alignment: Any) -> None:
    """Write a text beside a point; the offset is in pixels."""
    axes.annotate(text, xy, offset, place, "offset points", **alignment)


def dot(
    axes: Axes, x: float, y: float, colour: str, *, marker: str = "o", filled: bool = True
) -> None:
    """Draw one mark, whole also where it lies on the edge of the axes."""
    edge, face = SENTINELS[colour], SENTINELS[colour] if filled else PAGE
    style: dict[Any, Any] = {"ms": 5, "mew": 1.3, "ls": "none", "zorder": 4, "clip_on": False}
    axes.plot(x, y, marker=marker, markeredgecolor=edge, markerfacecolor=face, **style)


def to_svg(figure: Figure, key: str, label: str) -> Markup:
    """Return a figure as an SVG element that can stand in a page beside others.

    Matplotlib draws it. What it cannot write is changed in the parsed document: colours become
    variables of the page, ids become unique in the page, and the style sheet, the metadata and the
    name of the font, which belong to a file of its own, are removed.

    Args:
        figure: The figure.
        key: Name of the figure, unique in the page.
        label: What the figure shows, for those who cannot see it.

    Returns:
        The element.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("style", "metadata"):
                parent.remove(child)
    used = {reference for element in root.iter() for reference in _references(element)}
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = dict(_attributes(element, key, used))
        element.tail = None
        if element.tag != "text":
            element.text = None
    width, height = (figure.get_size_inches() * 72).round(2)
    root.attrib = {
        "class": "plot",
        "role": "img",
        "aria-label": label,
        "width": f"{width:g}",
        "height": f"{height:g}",
        "viewBox": f"0 0 {width:g} {height:g}",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """Return a name without its namespace, which SVG inside HTML does not need."""
    return name.rpartition("}")[2]


def _references(element: ElementTree.Element) -> Iterator[str]:
    """Yield the ids that an element refers to."""
    for value in element.attrib.values():
        if value.startswith("#"):
            yield value[1:]
        elif value.startswith("url(#"):
            yield value[5:-1]


def _attributes(
    element: ElementTree.Element, key: str, used: set[str]
) -> Iterator[tuple[str, str]]:
    for name, value in element.attrib.items():
        if name == "id":
            if value in used:
                yield name, f"{key}-{value}"
        elif name == "style":
            yield name, _style(value)
        elif value.startswith("url(#"):
            yield name, f"url(#{key}-{value[5:]}"
        else:
            yield _local(name), f"#{key}-{value[1:]}" if value.startswith("#") else value


def _style(text: str) -> str:
    """Return a style with the page's colours and font."""
    rules = (rule.partition(":") for rule in text.split(";") if rule.strip())
    own = {name.strip(): value.strip() for name, _, value in rules}
    own.pop("font-family", None)
    return "; ".join(f"{name}: {_COLOURS.get(value, value)}" for name, value in own.items())
