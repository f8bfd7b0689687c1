"""Settings of a worker: ``worker.toml`` in the state folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.loading import first_complaint
from fedunlearn.settings import NotNegative, Positive, Settings
from fedunlearn.toml import read_toml

FILE = "worker.toml"


class Gates(Settings):
    """Bounds that a new model must satisfy to replace the current one.

    Attributes:
        retain_loss_rise: Largest increase of the mean loss on the retain set, in nats.
        test_accuracy_drop: Largest decrease of the accuracy on held-out data, if there are any.
            Retraining loses some accuracy too if the forget set has most of a class: 9 points in
            the demonstration.
        relative_update: Largest distance from the model before, relative to the norm of that model.
    """

    retain_loss_rise: NotNegative = 0.1
    test_accuracy_drop: NotNegative = 0.2
    relative_update: Positive = 1.0


class Retention(Settings):
    """Retention of earlier models, which still contain removed data.

    Attributes:
        models: Number of models to retain for a rollback; all others are deleted at once.
        days: Longest retention in days.
    """

    models: Annotated[int, Field(ge=0)] = 1
    days: NotNegative = 30.0


class WorkerSettings(Settings):
    """Settings of a worker.

    Attributes:
        lease_s: Seconds after which another worker may take over a job whose lease is not renewed.
        batch: Largest number of requests of a kind that are removed together.
        poll_s: Seconds between two polls for due requests.
        gates: Bounds that a new model must satisfy.
        retention: Retention of earlier models.
    """

    lease_s: Positive = 60.0
    batch: Annotated[int, Field(gt=0)] = 16
    poll_s: Positive = 1.0
    gates: Gates = Gates()
    retention: Retention = Retention()

    @classmethod
    def read(cls, folder: Path) -> WorkerSettings:
        """Read ``worker.toml``; return the defaults if there is no such file.

        Args:
            folder: The state folder.

        Returns:
            The settings.

        Raises:
            ScenarioError: The file cannot be read, or has an invalid key or value.
        """
        path = folder / FILE
        try:
            return cls.model_validate(read_toml(path, ScenarioError))
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise ScenarioError(f"{path}: {first_complaint(error, cls)}") from None
