"""The models of a federation: their lineage, the current model, and which files are retained."""

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
    """Return the path of a model's file in the folder of models."""
    return folder / f"{sha256}.safetensors"


@dataclass(frozen=True)
class Model:
    """A model file.

    Attributes:
        sha256: sha256 of the file, hexadecimal.
        parent: sha256 of the model from which a removal made this one; None for a trained model.
        kind: Origin of the model.
        created: Time at which the model was added.
        current: Whether the model is the current one.
        file: Whether the file is retained.
        rolled_back: Whether the removal that made the model was rolled back.
        facts: Further facts that were stored with the model.
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
    """The methods of a request store for models."""

    def set_first(
        self, sha256: str, *, now: datetime, facts: Mapping[str, object] | None = None
    ) -> Model:
        """Make a trained model the current one if there is none; a repeated call changes nothing.

        Args:
            sha256: sha256 of the model file, hexadecimal.
            now: The current time.
            facts: Further facts to store with the model, JSON.

        Returns:
            The model.

        Raises:
            TransitionError: Another model is the current one.
        """
        issuer, time = self._signer(), micros(now)
        with self._database.write() as tx:
            tx.order()
            current = tx.execute(select(CURRENT.c.model)).scalar_one_or_none()
            if current not in (None, sha256):
                raise TransitionError(
                    f"there is a current model already, {current}, so no first model can be added"
                )
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
        """Return the current model; None if there is no model yet."""
        with self._database.read() as connection:
            sha256 = connection.execute(select(CURRENT.c.model)).scalar_one_or_none()
            return None if sha256 is None else read_model(connection, sha256)

    def model(self, sha256: str) -> Model | None:
        """Return a model; None if it is unknown."""
        with self._database.read() as connection:
            return read_model(connection, sha256)

    def models(self) -> list[Model]:
        """Return all models, the newest first."""
        with self._database.read() as connection:
            return read_models(connection)

    def dispose(self, sha256: str, *, now: datetime) -> None:
        """Record that a model's file is deleted permanently; a repeated call changes nothing.

        Args:
            sha256: sha256 of the file, hexadecimal.
            now: The current time.

        Raises:
            TransitionError: The model is the current one, or is unknown.
        """
        issuer, time = self._signer(), micros(now)
        with self._database.write() as tx:
            # A swap of the model locks this row, so none can happen meanwhile.
            tx.execute(select(CURRENT).with_for_update())
            tx.order()
            found = read_model(tx.connection, sha256)
            if found is None or found.current:
                what = "is the current model" if found else "is not a known model"
                raise TransitionError(f"{sha256} {what} and cannot be disposed of")
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
    """Insert a new model.

    Args:
        tx: The transaction.
        sha256: sha256 of the model file, hexadecimal.
        parent: sha256 of the model from which it was made.
        kind: Origin of the model.
        facts: Further facts to store with the model, JSON.
        now: Current time in microseconds since the epoch.
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
    """Reuse the row of a rolled back model that a removal has made again."""
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
    """Return whether a model is the current one, or one that the current one descends from."""
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
    """Return a model; None if it is unknown."""
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
