"""The models of a federation: which descends from which, which is current, whose file is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from fedunlearn.errors import TransitionError
from fedunlearn.requests.clock import micros, moment
from fedunlearn.requests.database import Transaction
from fedunlearn.requests.log import canonical
from fedunlearn.requests.log_store import Log, append
from fedunlearn.requests.tables import CURRENT, MODELS

Origin = Literal["trained", "removal"]


def model_path(folder: Path, sha256: str) -> Path:
    """Return where the file of a model is in the folder of models."""
    return folder / f"{sha256}.safetensors"


@dataclass(frozen=True)
class Model:
    """A model file.

    Attributes:
        sha256: Of the file, hexadecimal.
        parent: The model it was made from by a removal.
        kind: Where it comes from.
        created: When it was added.
        current: Whether it is in use.
        file: Whether the file is kept.
        rolled_back: Whether the removal that made it was taken back.
        facts: Whatever its maker says of it.
    """

    sha256: str
    parent: str | None
    kind: Origin
    created: datetime
    current: bool
    file: Literal["present", "disposed"]
    rolled_back: bool
    facts: Mapping[str, object]


class Models(Log):
    """What a request store does with models."""

    def set_first(
        self, sha256: str, *, now: datetime, facts: Mapping[str, object] | None = None
    ) -> Model:
        """Make a trained model the current one where there is none; again does nothing.

        Args:
            sha256: Of its file.
            now: The time.
            facts: Whatever is to be kept of it, JSON.

        Returns:
            The model.

        Raises:
            TransitionError: Another one is current.
        """
        issuer, time = self._signer(), micros(now)
        with self._database.write() as tx:
            tx.order()
            current = tx.execute(select(CURRENT.c.model)).scalar_one_or_none()
            if current not in (None, sha256):
                raise TransitionError(f"model {current} is current; a first one comes before it")
            if current is None:
                if read_model(tx.connection, sha256) is None:
                    insert_model(
                        tx, sha256, parent=None, kind="trained", facts=facts or {}, now=time
                    )
                tx.execute(insert(CURRENT).values(id=1, model=sha256))
                entry = {"kind": "model", "model": sha256, "origin": "trained"}
                append(tx, issuer, [entry], time)
            found = read_model(tx.connection, sha256)
        assert found is not None
        return found

    def current(self) -> Model | None:
        """Return the model that is in use."""
        with self._database.read() as connection:
            sha256 = connection.execute(select(CURRENT.c.model)).scalar_one_or_none()
            return None if sha256 is None else read_model(connection, sha256)

    def model(self, sha256: str) -> Model | None:
        """Return a model."""
        with self._database.read() as connection:
            return read_model(connection, sha256)

    def models(self) -> list[Model]:
        """Return all models, the newest first."""
        with self._database.read() as connection:
            return read_models(connection)

    def dispose(self, sha256: str, *, now: datetime) -> None:
        """Keep that a model's file is gone for good; again does nothing.

        Args:
            sha256: Of the file.
            now: The time.

        Raises:
            TransitionError: It is the current one, or none that is known.
        """
        issuer, time = self._signer(), micros(now)
        with self._database.write() as tx:
            # Whoever swaps the model holds this row.
            tx.execute(select(CURRENT).with_for_update())
            tx.order()
            found = read_model(tx.connection, sha256)
            if found is None or found.current:
                what = "the current model" if found else "no model that is known"
                raise TransitionError(f"{sha256} is {what} and cannot be disposed of")
            if found.file == "present":
                tx.execute(update(MODELS).where(MODELS.c.sha256 == sha256).values(file="disposed"))
                append(tx, issuer, [{"kind": "disposal", "model": sha256}], time)


def insert_model(
    tx: Transaction,
    sha256: str,
    *,
    parent: str | None,
    kind: Origin,
    facts: Mapping[str, object],
    now: int,
) -> None:
    """Insert a model that is not there.

    Args:
        tx: The transaction.
        sha256: Of its file.
        parent: The model it was made from.
        kind: Where it comes from.
        facts: Whatever is to be kept of it, JSON.
        now: Microseconds since the epoch.
    """
    tx.execute(
        insert(MODELS).values(
            sha256=sha256,
            parent=parent,
            kind=kind,
            created=now,
            number=tx.numbered(MODELS.c.number),
            file="present",
            rolled_back=False,
            facts=canonical(facts).decode(),
        )
    )


def revive_model(tx: Transaction, sha256: str, *, parent: str, facts: Mapping[str, object]) -> None:
    """Take a model into use that a rollback took out of it, and that a removal made again."""
    tx.execute(
        update(MODELS)
        .where(MODELS.c.sha256 == sha256)
        .values(
            parent=parent,
            kind="removal",
            number=tx.numbered(MODELS.c.number),
            file="present",
            rolled_back=False,
            facts=canonical(facts).decode(),
        )
    )


def lineage_has(connection: Connection, sha256: str) -> bool:
    """Return whether a model is the current one, or one it descends from."""
    at = connection.execute(select(CURRENT.c.model)).scalar_one_or_none()
    if at in (None, sha256):
        return at == sha256
    line = (
        select(MODELS.c.sha256, MODELS.c.parent)
        .where(MODELS.c.sha256 == at)
        .cte("line", recursive=True)
    )
    parent = select(MODELS.c.sha256, MODELS.c.parent).join(line, MODELS.c.sha256 == line.c.parent)
    line = line.union(parent)
    found = connection.execute(select(func.count()).where(line.c.sha256 == sha256)).scalar_one()
    return found > 0


def read_models(connection: Connection) -> list[Model]:
    """Return all models, the newest first."""
    rows = connection.execute(_MODELS.order_by(MODELS.c.number.desc())).mappings()
    return [_model(row) for row in rows]


_MODELS = select(MODELS, CURRENT.c.id.label("in_use")).outerjoin(
    CURRENT, CURRENT.c.model == MODELS.c.sha256
)


def read_model(connection: Connection, sha256: str) -> Model | None:
    """Return a model."""
    row = connection.execute(_MODELS.where(MODELS.c.sha256 == sha256)).mappings().one_or_none()
    return None if row is None else _model(row)


def _model(row: RowMapping) -> Model:
    return Model(
        sha256=row["sha256"],
        parent=row["parent"],
        kind=row["kind"],
        created=moment(row["created"]),
        current=row["in_use"] is not None,
        file=row["file"],
        rolled_back=row["rolled_back"],
        facts=json.loads(row["facts"]),
    )
