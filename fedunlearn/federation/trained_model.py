"""A trained model, and what can be recorded while training runs or when it ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fedunlearn.errors import InputError, NotRecordedError
from fedunlearn.federation.accounting import Meter
from fedunlearn.federation.training import LocalResult
from fedunlearn.model_state import ModelState
from fedunlearn.settings import TrainingSettings

if TYPE_CHECKING:
    from fedunlearn.federation.federation import Federation


class Recordable(Hashable, Protocol):
    """Something that can be recorded at the end of training, while all nodes are connected."""

    def record(self, trained: TrainedModel, federation: Federation) -> Any:
        """Run the rounds of the recording and return its value."""
        ...


class RoundObserver(Protocol):
    """An observer of every round of training that collects what a method needs."""

    def on_round(self, number: int, before: Tensor, local: Mapping[int, LocalResult]) -> None:
        """Take a round: its number, the weights (d,) before it, each node's result."""
        ...

    def collected(self) -> Any:
        """Return the collected value, after training has ended."""
        ...


@runtime_checkable
class TrainingObserver(Recordable, Protocol):
    """A Recordable that must observe training while it runs; it cannot be recorded afterwards."""

    def observer(self) -> RoundObserver:
        """Return a new observer for one training."""
        ...


@runtime_checkable
class WeightsObserver(Recordable, Protocol):
    """A Recordable that sees the weights of every round, which methods can do without.

    It is left out where training cannot be observed, as after its end.
    """

    def collect(self, rounds: int) -> WeightsCollector:
        """Return a new collector for training of so many rounds."""
        ...


class WeightsCollector(Protocol):
    """A collector of the weights of some rounds."""

    def on_round(self, number: int, weights: Tensor) -> None:
        """Take a round: its number, and the weights (d,) after it."""
        ...

    def collected(self) -> Any:
        """Return the collected value, after training has ended."""
        ...


@dataclass(frozen=True)
class Recorded:
    """A recording.

    Attributes:
        value: The value that the recordable returned.
        spent: The cost of the recording.
    """

    value: Any
    spent: Meter


@dataclass(frozen=True)
class TrainedModel:
    """A model at the end of training.

    Attributes:
        weights: The trained weights w^, shape (d,).
        initial: The initial weights w0, shape (d,); None where they were not stored, in which case
            some methods and settings cannot be used.
        settings: Settings of its training; weight decay and learning rate are used.
        recorded: The recordings made when training ended, by recordable.
        state: Trained values of tensors besides the weights that nodes do not have, by name in
            ``state_dict``: those that ``state_to_transfer`` finds.
        settings_known: Whether ``settings`` say how long training was; otherwise only weight decay
            and the size of batches are used of them.
    """

    weights: Tensor
    initial: Tensor | None = None
    settings: TrainingSettings = None  # type: ignore[assignment]  # checked by __post_init__
    recorded: Mapping[Recordable, Recorded] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=ModelState)
    settings_known: bool = True

    def __post_init__(self) -> None:
        """Check that the weights are vectors.

        Raises:
            InputError: They are not; the message states what was given and how to make a vector.
        """
        require_vector("weights", self.weights)
        if self.initial is not None:
            require_vector("initial", self.initial)
            if self.initial.shape != self.weights.shape:
                raise InputError(
                    f"trained model: initial has {len(self.initial)} numbers, weights "
                    f"{len(self.weights)}; give both of the same model"
                )
        if not isinstance(self.settings, TrainingSettings):
            raise InputError(
                "trained model: settings are missing; say how it was trained: "
                "settings=TrainingSettings(rounds=..., learning_rate=..., weight_decay=...)"
            )

    @property
    def start(self) -> Tensor:
        """The initial weights w0, shape (d,).

        Raises:
            InputError: They were not stored.
        """
        if self.initial is None:
            raise InputError(
                "trained model: has no initial weights, which are needed here; give them as "
                "TrainedModel(weights, initial=...), or take what does without: cubic-newton with "
                "linearise-at = 1, or fine-tune"
            )
        return self.initial

    def recording(self, wanted: Recordable, remedy: str) -> Any:
        """Return the value of a recording.

        Raises:
            NotRecordedError: There is no such recording; the message gives an alternative.
        """
        if wanted not in self.recorded:
            raise NotRecordedError(
                f"training recorded no {wanted}; record it while all nodes are there "
                f"(Federation.fit, Federation.record), or {remedy}"
            )
        return self.recorded[wanted].value

    def interpolated(self, share: float) -> Tensor:
        """Return w0 + share (w^ - w0), shape (d,), which is w^ itself for a share of 1."""
        if share == 1.0:
            return self.weights
        return self.start + share * (self.weights - self.start)


def require_vector(name: str, weights: object) -> None:
    """Check that a value is a vector of weights; the error explains how to make one.

    Args:
        name: Name of the argument, for the message.
        weights: The value that was given.

    Raises:
        InputError: It is not a floating-point tensor of shape (d,).
    """
    if isinstance(weights, Mapping):
        raise InputError(
            f"trained model: {name} is a state_dict; give fedunlearn.flatten_state(model, state) "
            "of it, which takes the tensors by their names"
        )
    if not isinstance(weights, Tensor):
        kind = type(weights).__name__
        what = "flatten(model)" if isinstance(weights, nn.Module) else "a torch.Tensor, shape (d,)"
        raise InputError(f"trained model: {name} is {kind}; give {what}")
    if weights.ndim != 1 or not weights.is_floating_point():
        raise InputError(
            f"trained model: {name} has shape {tuple(weights.shape)} and dtype {weights.dtype}; "
            "give one vector of floating-point numbers, shape (d,), as flatten(model) returns"
        )
