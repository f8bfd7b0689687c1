"""The common parts of pages: rendering a template, and settings in TOML's notation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Section:
    """A table of a scenario.

    Attributes:
        name: Dotted name of the table.
        lines: Its lines in TOML's notation.
    """

    name: str
    lines: Sequence[str]


def render(template: str, **values: object) -> str:
    """Return a page; text is escaped unless it is markup, and a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("fedunlearn.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def sections(
    tables: Mapping[str, object],
    varied: Mapping[str, Sequence[object]] | None = None,
    above: str = "",
) -> Iterator[Section]:
    """Yield the tables of a scenario.

    Args:
        tables: Keys to values and further tables.
        varied: Dotted key to its value for each seed, which is added as a comment.
        above: Dotted name of the table that contains these tables.

    Yields:
        The tables that contain values, outer tables first.
    """
    for key, table in tables.items():
        if not isinstance(table, Mapping):
            continue
        name = f"{above}.{key}".lstrip(".")
        values = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
        if values:
            yield Section(
                name,
                [
                    f"{k} = {toml(v)}{_then((varied or {}).get(f'{name}.{k}', ()))}"
                    for k, v in values.items()
                ],
            )
        yield from sections({k: v for k, v in table.items() if k not in values}, varied, name)


def toml(value: object) -> str:
    """Return a value in TOML's notation."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)


def unbroken(text: str) -> str:
    """Return a text whose numbers and signs are not separated by a line break."""
    for breaking in (" %", " ±", "± "):
        text = text.replace(breaking, breaking.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def _then(values: Sequence[object]) -> str:
    return f"  # then {', '.join(map(toml, values[1:]))}" if len(values) > 1 else ""
