"""Types of options for whole numbers whose bounds are not printed in the help."""

from __future__ import annotations

from collections.abc import Callable

import click


def number_up_to(largest: int) -> Callable[[str], int]:
    """Return a type of option: a whole number from 0 to ``largest``."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text) <= largest):
            raise click.BadParameter(f"{text!r} is not a whole number from 0 to {largest}")
        return int(text)

    return number


EVENT = number_up_to(2**63 - 1)
