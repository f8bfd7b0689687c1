"""Which old models are kept, and how long: to a regulator they are copies of what was removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fedunlearn.requests.model_lineage import Model
from fedunlearn.worker.worker_settings import Retention

PRESENT = "present"


@dataclass(frozen=True)
class Fate:
    """What becomes of an old model.

    Attributes:
        sha256: Of its file.
        kept_until: For a rollback; None where it is deleted at once.
    """

    sha256: str
    kept_until: datetime | None

    def as_dict(self) -> dict[str, object]:
        """Return it as receipts have it."""
        if self.kept_until is None:
            return {"sha256": self.sha256, "fate": "deleted"}
        until = self.kept_until.isoformat(timespec="seconds")
        return {"sha256": self.sha256, "fate": f"kept for a rollback until {until}, then deleted"}


def fates(
    models: Sequence[Model], current: str, parent: str | None, rule: Retention, now: datetime
) -> list[Fate]:
    """Decide what becomes of every model file but the current one.

    A model is kept for a rollback for some time after it was replaced, as long as no more than so
    many came after it. One that was itself rolled back is not kept.

    Args:
        models: All that are known.
        current: sha256 of the current one, or of the one that is about to be.
        parent: Of the one that it took, or takes, the place of.
        rule: How many are kept, and how long.
        now: The time.

    Returns:
        One entry for each file that is there, in the order of ``models``.
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
