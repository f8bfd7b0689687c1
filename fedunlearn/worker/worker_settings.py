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
    """What a model must keep to take the current one's place.

    Attributes:
        retain_loss_rise: At most so much more mean loss on what stays, in nats.
        test_accuracy_drop: At most so much less accuracy on held-out data, where there are any.
            Retraining loses some of it too, where what leaves takes most of a class along: 9 points
            in the demonstration.
        relative_update: At most so far from the model before, in norms of that model.
    """

    retain_loss_rise: NotNegative = 0.1
    test_accuracy_drop: NotNegative = 0.2
    relative_update: Positive = 1.0


class Retention(Settings):
    """What becomes of the models before: they still hold what was removed.

    Attributes:
        models: How many are kept for a rollback; all others are deleted at once.
        days: For how long at most.
    """

    models: Annotated[int, Field(ge=0)] = 1
    days: NotNegative = 30.0


class WorkerSettings(Settings):
    """Settings of a worker.

    Attributes:
        lease_s: Seconds after which another worker may take a job over from one that is silent.
        batch: At most so many requests of a kind are removed together.
        poll_s: Seconds between looks for due requests.
        gates: See Gates.
        retention: See Retention.
    """

    lease_s: Positive = 60.0
    batch: Annotated[int, Field(gt=0)] = 16
    poll_s: Positive = 1.0
    gates: Gates = Gates()
    retention: Retention = Retention()

    @classmethod
    def read(cls, folder: Path) -> WorkerSettings:
        """Read ``worker.toml``; the defaults where there is none.

        Args:
            folder: The state folder.

        Returns:
            The settings.

        Raises:
            ScenarioError: The file cannot be read, or has a key or value that it cannot have.
        """
        path = folder / FILE
        try:
            return cls.model_validate(read_toml(path, ScenarioError))
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise ScenarioError(f"{path}: {first_complaint(error, cls)}") from None
