"""A user's model, loss and data as a Task of one node."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from fedunlearn.errors import FedunlearnError, OwnCodeError
from fedunlearn.networks import build_model
from fedunlearn.node.own_call import OwnForward
from fedunlearn.node.own_data import OwnData, own_data
from fedunlearn.node.own_model import OwnForm, OwnLoss, adapted, form_of_own
from fedunlearn.parameters import ParameterLayout
from fedunlearn.risk.dataset_examples import DatasetExamples
from fedunlearn.risk.examples import Examples, TensorExamples, few
from fedunlearn.risk.randomness import generators_restored
from fedunlearn.risk.task import Loss
from fedunlearn.trees import Tree, map_tensors


class OwnTask:
    """What a user's app has, in the form that a node computes with.

    The model is in eval mode: dropout off, BatchNorm at its running statistics.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        loss: OwnLoss | None,
        data: Callable[[], object],
        *,
        label: str | None = None,
        forward: OwnForward | None = None,
    ) -> None:
        """Take them; nothing is built or read yet.

        Args:
            model: Builds the model.
            loss: Loss of outputs and targets, or of outputs and batch: mean over the examples.
                None for the loss that the model returns itself.
            data: Returns one node's data in a form that ``own_data`` takes.
            label: The key of the targets, of batches that are dictionaries.
            forward: Maps model and batch to outputs, where the signature does not say how.
        """
        self._make = model
        self._own_loss = loss
        self._read = data
        self._label = label
        self._forward = forward
        self._handed_out = False

    @property
    def loss(self) -> Loss:
        """Map the adapted model's outputs and targets to the mean loss."""
        return self.form.loss

    @property
    def batch_size(self) -> int | None:
        """Of the user's loader; None where there is none."""
        return self._first.batch_size

    def model(self) -> nn.Module:
        """Build the model, in eval mode, called as the data need it."""
        with (
            generators_restored()
        ):  # the first time data are read, which must not change what is drawn
            form = self.form
        return adapted(self._make().eval(), form)

    def data(self, node: int = 0) -> Examples:
        """Return what the node trains on; read anew at every call but the first.

        Args:
            node: Does not count: the data are of one node.
        """
        found = self._taken() if self._handed_out else self._first
        self._handed_out = True
        return found.train if len(found.train) == 0 else self._divided(found.train)

    def held_out(self, node: int = 0) -> Examples | None:
        """Return what the node evaluates on; None where the data function returns none.

        Args:
            node: Does not count: the data are of one node.
        """
        found = self._first.held_out
        return found if found is None or len(found) == 0 else self._divided(found)

    @cached_property
    def form(self) -> OwnForm:
        """How batches, model and loss fit together, found by a trial on a few examples.

        Raises:
            TaskError: Nothing says how.
        """
        model = build_model(self._make).eval()
        device = ParameterLayout.of(model).device
        some = few(self._first.train)
        batch = map_tensors(lambda one: one.to(device), _collated(some))
        return form_of_own(model, self._own_loss, batch, label=self._label, forward=self._forward)

    @cached_property
    def _first(self) -> OwnData:
        return self._taken()

    def _taken(self) -> OwnData:
        try:
            found = self._read()
        except FedunlearnError:
            raise
        except Exception as error:
            raise OwnCodeError(
                f"{type(error).__name__} in the task's own code: data(); see the node's log"
            ) from error
        return own_data(found)

    def _divided(self, examples: Examples) -> Examples:
        if isinstance(examples, TensorExamples):
            if self.form.plain:
                return examples
            pairs = TensorDataset(examples.inputs, examples.targets)
            examples = DatasetExamples(pairs, default_collate)
        if isinstance(examples, DatasetExamples):
            return examples.divided(self.form.divide, self.form.label_of)
        return examples


def _collated(examples: Examples) -> Tree:
    places = torch.arange(len(examples))
    if isinstance(examples, DatasetExamples):
        return examples.collated(places)
    return examples.batch(places)
