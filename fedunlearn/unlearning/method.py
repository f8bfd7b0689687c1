"""The interface of unlearning methods, and their result."""

from __future__ import annotations

import enum
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ValidationError
from torch import Tensor

from fedunlearn.errors import InputError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, TrainedModel
from fedunlearn.federation.training import OnRound
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.scenario.loading import first_complaint
from fedunlearn.settings import Settings

S = TypeVar("S", bound=Settings)
Grid = Mapping[str, Sequence[Any]]


class Claim(enum.StrEnum):
    """The claim that a method can make about the model after a removal.

    ``EXACT`` and ``CERTIFIED`` hold to figures that the status and the details state: a relative
    error against retraining; epsilon and delta.
    """

    EXACT_RETRAIN = "EXACT_RETRAIN"
    EXACT = "EXACT"
    CERTIFIED = "CERTIFIED"
    EMPIRICAL = "EMPIRICAL"


@dataclass(frozen=True)
class Unlearned:
    """A model after a removal.

    Attributes:
        weights: The weights w+ after the removal, shape (d,).
        status: The outcome in one line, with the remedy where there is one.
        claim: The claim that the method makes about the model.
        details: Further values that the method reports; JSON can hold them.
        trained: The model from which the next removal starts, where it is more than the weights.
    """

    weights: Tensor
    status: str
    claim: Claim
    details: Mapping[str, Any] = field(default_factory=dict)
    trained: TrainedModel | None = None


class UnlearningMethod(ABC, Generic[S]):
    """A method that removes a forget set from a trained model, with the federation's help.

    A subclass defines ``name`` and ``settings_type`` and is registered as an entry point of the
    group ``fedunlearn.methods``.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    # Settings worth a trial, by their keys in a scenario, for ``fedunlearn tune``.
    grid: ClassVar[Grid] = MappingProxyType({})

    def __init_subclass__(cls, **more: Any) -> None:
        """Show the settings in the signature of the constructor."""
        super().__init_subclass__(**more)
        if "settings_type" in vars(cls):
            one = inspect.Parameter(
                "settings",
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None,
                annotation=cls.settings_type | None,
            )
            each = [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=field.annotation,
                )
                for name, field in cls.settings_type.model_fields.items()
            ]
            vars_of: Any = cls
            vars_of.__signature__ = inspect.Signature([one, *each])

    def __init__(self, settings: S | None = None, **each: object) -> None:
        """Take settings: an object of ``settings_type``, or single settings as keyword arguments.

        Args:
            settings: An object with all settings. If it is left out, the defaults apply.
            each: Single settings as keyword arguments, as in ``Rewind(rounds=3)``.

        Raises:
            InputError: The method does not have such a setting, or the value is not allowed.
        """
        if settings is not None and (each or not isinstance(settings, self.settings_type)):
            given = type(settings).__name__
            raise InputError(
                f"{self.name}: settings are {given}{' beside ' + ', '.join(each) if each else ''}; "
                f"give {self.settings_type.__name__}(...), or each setting by its name"
            )
        if settings is None:
            try:
                settings = self.settings_type(**each)  # type: ignore[assignment]
            except ValidationError as error:
                complaint = first_complaint(error, self.settings_type)
                raise InputError(f"{self.name}: {complaint}") from None
        assert settings is not None  # for the type checker
        self.settings: S = settings

    def to_record(self) -> tuple[Recordable, ...]:
        """Return the recordings that must be made when training ends (``Federation.record``)."""
        return ()

    @abstractmethod
    def unlearn(
        self,
        trained: TrainedModel,
        federation: Federation,
        forget: ForgetSet,
        *,
        on_round: OnRound | None = None,
    ) -> Unlearned:
        """Remove a forget set.

        Args:
            trained: The model before the removal.
            federation: All nodes, including those that leave.
            forget: The forget set.
            on_round: Called in order with the number of rounds spent and the weights that the
                removal would have given after them; the last call is for the result.

        Returns:
            The model after the removal, with its status and details.
        """

    def at_compute(self, gradient_equivalents: float, local_epochs: int) -> UnlearningMethod[S]:
        """Return this method, sized to about this client compute; itself if it has no size."""
        del gradient_equivalents, local_epochs
        return self
