"""What was looked at already, so that it is not looked at again for every question."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from fedunlearn.risk.examples import Examples, Form
from fedunlearn.risk.task import Loss


class Seen:
    """Models with which some check was done, each with a loss and a form of examples."""

    def __init__(self) -> None:
        """Know none."""
        self._known: WeakKeyDictionary[nn.Module, list[tuple[Loss, Form]]] = WeakKeyDictionary()

    def holds(self, model: nn.Module, loss: Loss, examples: Examples) -> bool:
        """Return whether the check was done, in the mode in which the model is."""
        form = self._form(model, examples)
        known = self._known.get(model, [])
        return any((one is loss or one == loss) and seen == form for one, seen in known)

    def add(self, model: nn.Module, loss: Loss, examples: Examples) -> None:
        """Note that the check was done."""
        self._known.setdefault(model, []).append((loss, self._form(model, examples)))

    @staticmethod
    def _form(model: nn.Module, examples: Examples) -> Form:
        return (*examples.form(), tuple(module.training for module in model.modules()))
