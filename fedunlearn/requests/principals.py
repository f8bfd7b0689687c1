"""Principals (owners of nodes and operators), their keys, and the commitments of nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from fedunlearn.commitments import Commitment
from fedunlearn.errors import TransitionError
from fedunlearn.names import MOST_NAME, in_order, is_name, quoted
from fedunlearn.requests.clock import micros
from fedunlearn.requests.database import Transaction
from fedunlearn.requests.keys import PublicKey
from fedunlearn.requests.log_store import Log, append
from fedunlearn.requests.tables import CLASSES, KEYS, NODES, PRINCIPALS

Role = Literal["owner", "operator"]


@dataclass(frozen=True)
class Principal:
    """A principal with one of its keys.

    Attributes:
        name: Name of the principal.
        role: Owners request removals on their nodes; operators see all requests and decide on them.
        nodes: Names of the principal's nodes, in order.
        revoked: Whether the key is revoked.
        key: The public key.
    """

    name: str
    role: Role
    nodes: tuple[str, ...]
    revoked: bool
    key: PublicKey


class Principals(Log):
    """The methods of a request store for principals, nodes and classes."""

    def register_key(
        self,
        name: str,
        role: Role,
        key: PublicKey,
        nodes: Iterable[str] = (),
        *,
        now: datetime,
    ) -> None:
        """Register a key of a principal; the same values again change nothing.

        Args:
            name: Name of the owner or operator, who may have several keys.
            role: Role of the principal; a name has one role.
            key: The public key.
            nodes: Names of further nodes of the owner.
            now: The current time.

        Raises:
            TransitionError: The key is revoked or belongs to another principal, the name has
                another role, or a node has another owner or an invalid name.
        """
        issuer, time, wanted = self._signer(), micros(now), list(in_order(nodes))
        if (
            role not in ("owner", "operator")
            or not 0 < len(name.strip()) <= 200
            or not name.isprintable()
        ):
            raise TransitionError(
                f"{name[:200]!r} cannot be registered as {role!r}; right is a name of up to 200 "
                "printable characters, as owner or operator"
            )
        if wanted and role == "operator":
            raise TransitionError(f"{name} is an operator and owns no nodes; right is an owner")
        _check_names("node", wanted)
        with self._database.write() as tx:
            tx.order()
            known = tx.execute(select(KEYS).where(KEYS.c.id == key.id)).mappings().one_or_none()
            if known is not None and (known["principal"] != name or known["revoked"] is not None):
                raise TransitionError(
                    f"key {key.id} is registered for {known['principal']}"
                    + (" and revoked" if known["revoked"] is not None else "")
                    + "; right is another key"
                )
            query = select(PRINCIPALS.c.role).where(PRINCIPALS.c.name == name)
            other = tx.execute(query).scalar_one_or_none()
            if other is not None and other != role:
                raise TransitionError(f"{name} is registered as {other}; right is another name")
            taken = _not_owned(tx, name, wanted)
            if other is None:
                tx.execute(insert(PRINCIPALS).values(name=name, role=role, created=time))
            for node in taken:
                tx.insert_new(NODES, name=node)
                tx.execute(update(NODES).where(NODES.c.name == node).values(owner=name))
            if known is None:
                tx.execute(
                    insert(KEYS).values(id=key.id, principal=name, pem=key.pem, created=time)
                )
            if known is None or taken:
                entry = {
                    "kind": "key",
                    "action": "register",
                    "principal": name,
                    "role": role,
                    "key_id": key.id,
                    "nodes": taken,
                }
                append(tx, issuer, [entry], time)

    def revoke_key(self, key_id: str, *, now: datetime) -> None:
        """Revoke a key; what it has signed before remains valid.

        Raises:
            TransitionError: There is no such key.
        """
        issuer, time = self._signer(), micros(now)
        with self._database.write() as tx:
            tx.order()
            row = tx.execute(select(KEYS).where(KEYS.c.id == key_id)).mappings().one_or_none()
            if row is None:
                raise TransitionError(f"there is no key {key_id}; right is a registered key")
            if row["revoked"] is not None:
                return
            tx.execute(update(KEYS).where(KEYS.c.id == key_id).values(revoked=time))
            entry = {
                "kind": "key",
                "action": "revoke",
                "principal": row["principal"],
                "key_id": key_id,
            }
            append(tx, issuer, [entry], time)

    def register_commitment(
        self, node: str, commitment: Commitment, *, now: datetime, replace: bool = False
    ) -> None:
        """Store the commitment of a node to its records; the same value again changes nothing.

        Args:
            node: Name of the node.
            commitment: Commitment to the node's records.
            now: The current time.
            replace: Whether to replace another commitment.

        Raises:
            TransitionError: The node has another commitment already, or an invalid name.
        """
        _check_names("node", [node])
        issuer, time = self._signer(), micros(now)
        values = {"commitment_root": commitment.root, "commitment_size": commitment.size}
        with self._database.write() as tx:
            tx.order()
            before = _commitment(tx.connection, node)
            if before == commitment:
                return
            if before is not None and not replace:
                raise TransitionError(
                    f"node {node} committed to other records before; right is the same "
                    "commitment, or to replace it on purpose"
                )
            tx.insert_new(NODES, name=node)
            tx.execute(update(NODES).where(NODES.c.name == node).values(values))
            entry = {
                "kind": "commitment",
                "node": node,
                "root": commitment.root,
                "size": commitment.size,
                "replaced": before is not None,
            }
            append(tx, issuer, [entry], time)

    def commitment(self, node: str) -> Commitment | None:
        """Return the commitment of a node; None if it has none."""
        with self._database.read() as connection:
            return _commitment(connection, node)

    def commitments(self) -> dict[str, Commitment]:
        """Return the commitments by node."""
        query = select(NODES).where(NODES.c.commitment_root.is_not(None))
        with self._database.read() as connection:
            return {
                row["name"]: Commitment(row["commitment_root"], row["commitment_size"])
                for row in connection.execute(query.order_by(NODES.c.name)).mappings()
            }

    def principals(self) -> list[Principal]:
        """Return all keys with their principals, ordered by name, the oldest key first."""
        owned: dict[str, list[str]] = {}
        query = _KEYS.order_by(KEYS.c.principal, KEYS.c.created, KEYS.c.id)
        with self._database.read() as connection:
            for node in connection.execute(_OWNED.where(NODES.c.owner.is_not(None))):
                owned.setdefault(node.owner, []).append(node.name)
            rows = connection.execute(query).mappings().all()
        return [_principal(row, owned.get(row["principal"], [])) for row in rows]

    def nodes_left(self) -> frozenset[str]:
        """Return the removed nodes; a rollback does not add a node again."""
        with self._database.read() as connection:
            query = select(NODES.c.name).where(NODES.c.left.is_not(None))
            return frozenset(connection.execute(query).scalars())

    def register_classes(self, names: Iterable[str], *, now: datetime) -> None:
        """Store the names of the classes that requests may name; the same names change nothing.

        Args:
            names: Names of all classes; they replace the names stored before.
            now: The current time.

        Raises:
            TransitionError: A name is invalid.
        """
        wanted = in_order(names)
        _check_names("class", wanted)
        issuer, time = self._signer(), micros(now)
        with self._database.write() as tx:
            tx.order()
            if set(wanted) == set(tx.execute(select(CLASSES.c.name)).scalars()):
                return
            tx.execute(delete(CLASSES))
            tx.execute(insert(CLASSES), [{"name": name} for name in wanted])
            append(tx, issuer, [{"kind": "classes", "names": list(wanted)}], time)

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes that requests may name; empty if none are stored."""
        with self._database.read() as connection:
            return in_order(connection.execute(select(CLASSES.c.name)).scalars())


def _check_names(one: str, names: Iterable[str]) -> None:
    for name in names:
        if not is_name(name):
            raise TransitionError(
                f"{quoted(name)} is not a valid name of a {one}; right is one line of 1 to "
                f"{MOST_NAME} characters, without outer blanks"
            )


def _not_owned(tx: Transaction, name: str, nodes: list[str]) -> list[str]:
    found = tx.execute(select(NODES.c.name, NODES.c.owner).where(NODES.c.name.in_(nodes)))
    owners = {row.name: row.owner for row in found}
    for node in nodes:
        if owners.get(node) not in (None, name):
            raise TransitionError(f"node {node} has another owner; a node has one owner")
    return [node for node in nodes if owners.get(node) != name]


_KEYS = select(KEYS, PRINCIPALS.c.role).join(PRINCIPALS, PRINCIPALS.c.name == KEYS.c.principal)

_OWNED = select(NODES.c.name, NODES.c.owner).order_by(NODES.c.name)


def _commitment(connection: Connection, node: str) -> Commitment | None:
    query = select(NODES.c.commitment_root, NODES.c.commitment_size).where(NODES.c.name == node)
    row = connection.execute(query).one_or_none()
    if row is None or row.commitment_root is None:
        return None
    return Commitment(row.commitment_root, row.commitment_size)


def _principal(row: RowMapping, nodes: list[str]) -> Principal:
    key = PublicKey.from_pem(row["pem"], where=f"key {row['id']}")
    return Principal(
        row["principal"], row["role"], in_order(nodes), row["revoked"] is not None, key
    )
