"""Numbers of nodes and labels."""

from __future__ import annotations

import click

LARGEST = 2**32 - 1


class Number(click.ParamType):
    """A whole number from 0 that fits the service's messages."""

    name = "number"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number of a text."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and int(text) <= LARGEST):
            self.fail(f"{text!r} is not a whole number from 0 to {LARGEST}", param, ctx)
        return int(text)


NUMBER = Number()
