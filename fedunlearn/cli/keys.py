"""``fedunlearn keys``: generate, register, revoke and list keys of owners and operators."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fedunlearn.cli.serve import database_option, state_option
from fedunlearn.cli.tables import print_json, print_table
from fedunlearn.errors import InputError, KeyFileError, VerificationError

if TYPE_CHECKING:
    from fedunlearn.commitments import Commitment

_FILE = click.Path(path_type=Path)


@click.group()
def keys() -> None:
    """Generate keys, and register keys of owners and operators with a service."""


@keys.command()
@click.argument("out", type=_FILE, metavar="FILE")
@click.option(
    "--kind",
    type=click.Choice(["ed25519", "p256", "p384"]),
    default="ed25519",
    show_default=True,
    help="Ed25519, or ECDSA on this curve.",
)
def generate(out: Path, kind: Literal["ed25519", "p256", "p384"]) -> None:
    """Write a new private key to FILE, and its public key to FILE.pub.

    A SuperNode's key for Flower's node authentication can be used as well.
    """
    from fedunlearn.files import write_whole
    from fedunlearn.requests.keys import PrivateKey

    public = _new(out.with_name(f"{out.name}.pub"))
    key = PrivateKey.generate(kind)
    key.write(out)
    write_whole(public, key.public.pem)
    click.echo(f"{out}\n{public}\nid {key.public.id}")


@keys.command()
@click.argument("public", type=_FILE, metavar="PUB")
@state_option
@database_option
@click.option(
    "--name", required=True, help="Name of the owner or operator, who may have several keys."
)
@click.option(
    "--role",
    type=click.Choice(["owner", "operator"]),
    default="owner",
    show_default=True,
    help="Owners request removals; operators see all requests and decide on them.",
)
@click.option(
    "--node", "nodes", multiple=True, metavar="NAME", help="Node of the owner, by its name."
)
@click.option(
    "--commitment",
    type=_FILE,
    metavar="FILE",
    help="The node's commitments to its records, if it has made any.",
)
@click.option("--replace", is_flag=True, help="Replace the node's commitments; this is logged.")
def register(
    public: Path,
    state: Path,
    database: str | None,
    name: str,
    role: Literal["owner", "operator"],
    nodes: tuple[str, ...],
    commitment: Path | None,
    replace: bool,
) -> None:
    """Register the public key in PUB for an owner of nodes, or for an operator."""
    from fedunlearn.requests.keys import PublicKey
    from fedunlearn.service.state import open_state

    key = PublicKey.read(public)
    registered = None if commitment is None else _registered(commitment, nodes)
    now = datetime.now(UTC)
    with open_state(state, database) as opened:
        opened.store.register_key(name, role, key, nodes, now=now)
        if registered is not None:
            opened.store.register_commitment(nodes[0], registered, now=now, replace=replace)
    click.echo(f"registered {key.id} for {role} {name}")
    if registered is not None:
        click.echo(f"node {nodes[0]} is committed to {registered.size} records")


@keys.command()
@click.argument("key_id", metavar="KEY_ID")
@state_option
@database_option
def revoke(key_id: str, state: Path, database: str | None) -> None:
    """Revoke a key; what it has signed before remains valid."""
    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        opened.store.revoke_key(key_id, now=datetime.now(UTC))
    click.echo(f"revoked {key_id}")


@keys.command("list")
@state_option
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_keys(state: Path, database: str | None, as_json: bool) -> None:
    """List the registered keys with their owners and operators."""
    from fedunlearn.service.state import open_state

    with open_state(state, database, create=False) as opened:
        found = opened.store.principals()
        commitments = opened.store.commitments()
        issuer = opened.issuer.public.id
    if as_json:
        listed = [
            {
                "key_id": one.key.id,
                "kind": one.key.kind,
                "name": one.name,
                "role": one.role,
                "nodes": list(one.nodes),
                "revoked": one.revoked,
            }
            for one in found
        ]
        committed = [
            {"node": node, "root": one.root, "records": one.size}
            for node, one in sorted(commitments.items())
        ]
        print_json({"issuer_key_id": issuer, "keys": listed, "commitments": committed})
        return
    print_table(
        ("name", "role", "nodes", "kind", "key", ""),
        [
            (
                one.name,
                one.role,
                ", ".join(one.nodes),
                one.key.kind,
                one.key.id,
                "revoked" if one.revoked else "",
            )
            for one in found
        ],
    )


def _new(path: Path) -> Path:
    if path.exists():
        raise KeyFileError(f"{path} exists already; right is a new name")
    return path


def _registered(path: Path, nodes: tuple[str, ...]) -> Commitment:
    from fedunlearn.commitments import Commitments

    if len(nodes) != 1:
        raise InputError("--commitment: belongs to one node; give exactly one --node")
    try:
        return Commitments.load(path).registered
    except VerificationError as error:
        raise InputError(f"--commitment: {error}") from None
