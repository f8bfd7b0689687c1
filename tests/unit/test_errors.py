"""The tree of exceptions that the module shows is the tree that there is."""

from __future__ import annotations

import re

import fedunlearn.errors as errors


def drawn() -> dict[str, str | None]:
    """Return each class of the docstring's tree with the one that it stands under."""
    assert errors.__doc__ is not None
    above: list[tuple[int, str]] = []
    found: dict[str, str | None] = {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ([│ ]*)(?:[├└]── )?(\w+Error)\b", line)
        if match is None:
            continue
        depth = len(match[1]) + (4 if "──" in line else 0)
        while above and above[-1][0] >= depth:
            above.pop()
        found[match[2]] = above[-1][1] if above else None
        above.append((depth, match[2]))
    return found


def there() -> dict[str, str | None]:
    root = errors.FedunlearnError
    classes = [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, root)
    ]
    return {one.__name__: None if one is root else one.__mro__[1].__name__ for one in classes}


def test_the_tree_of_exceptions_is_drawn_as_it_is() -> None:
    assert drawn() == there()
    assert {"NodeLostError", "UnknownNameError"} <= set(drawn())
