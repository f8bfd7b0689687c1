"""Retention of earlier models, which still contain removed data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fedunlearn.requests.model_lineage import Model
from fedunlearn.worker.worker_settings import Retention

PRESENT = "present"


@dataclass(frozen=True)
class Fate:
    """The retention or deletion of an earlier model.

    Attributes:
        sha256: sha256 of the model file, hexadecimal.
        kept_until: Time until which the model is retained for a rollback; None if it is deleted at
            once.
    """

    sha256: str
    kept_until: datetime | None

    def as_dict(self) -> dict[str, object]:
        """Return the entry of a receipt."""
        if self.kept_until is None:
            return {"sha256": self.sha256, "fate": "deleted"}
        until = self.kept_until.isoformat(timespec="seconds")
        return {
            "sha256": self.sha256,
            "fate": f"retained for a rollback until {until}, then deleted",
        }


def fates(
    models: Sequence[Model], current: str, parent: str | None, rule: Retention, now: datetime
) -> list[Fate]:
    """Decide on retention or deletion of every model file except the current one.

    A replaced model is retained for a rollback for a limited time, unless too many models followed
    it. A model that was itself rolled back is not retained.

    Args:
        models: All known models.
        current: sha256 of the current model, or of the one that becomes current.
        parent: sha256 of the model that the current one replaces.
        rule: Number of models to retain, and the duration.
        now: The current time.

    Returns:
        One entry for each existing file, in the order of ``models``.
    """
    known = {model.sha256: model for model in models}
    replaced = known[current].created if current in known else now
    until: dict[str, datetime] = {}
    while parent is not None and len(until) < rule.models:
        until[parent] = replaced + timedelta(days=rule.days)
        replaced, parent = known[parent].created, known[parent].parent
    return [
        Fate(sha256, until[sha256] if sha256 in until and until[sha256] > now else None)
        for sha256, model in known.items()
        if sha256 != current and model.file == PRESENT
    ]
