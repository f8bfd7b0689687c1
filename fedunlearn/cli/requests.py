"""``fedunlearn request``: create, list, watch and decide on deletion requests."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from fedunlearn.cli.connection import Connection, connected, connection_options
from fedunlearn.cli.numbers import EVENT
from fedunlearn.cli.positions import positions as _positions
from fedunlearn.cli.positions import shown as _shown
from fedunlearn.cli.tables import print_json, print_pairs, print_table, printable
from fedunlearn.errors import InputError, VerificationError
from fedunlearn.names import is_name, listed

if TYPE_CHECKING:
    from fedunlearn.rpc.v1 import deletion_pb2 as pb

_FILE = click.Path(path_type=Path)
SHOWN = 10  # nodes or classes to list in a table
STATES = ("PENDING", "AWAITING_APPROVAL", "RUNNING", "SUCCEEDED", "REJECTED", "CANCELLED", "FAILED")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
reason_option = click.option("--reason", required=True, metavar="TEXT", help="Reason, one line.")


@click.group()
def request() -> None:
    """Create deletion requests, follow them, and decide on them as operator."""


@request.command()
@click.option(
    "--node", "nodes", multiple=True, metavar="NAME", help="Remove a whole node, by its name."
)
@click.option(
    "--records",
    metavar="LIST|FILE",
    help="Remove records by position: 3,5,7-9, or a file of these.",
)
@click.option(
    "--commitments", type=_FILE, metavar="FILE", help="The node's commitments, for --records."
)
@click.option("--of-node", metavar="NAME", help="Node that holds the records.")
@click.option(
    "--class", "labels", multiple=True, metavar="NAME", help="Remove a whole class, by its name."
)
@click.option(
    "--on-node",
    "on_nodes",
    multiple=True,
    metavar="NAME",
    help="Node on which the class is removed; by default, all nodes (operators only).",
)
@click.option(
    "--model", metavar="SHA256", help="Model that the owner has seen; by default, the current one."
)
@click.option("--request-id", metavar="UUID4", help="Id of the request; by default, a new one.")
@connection_options
@json_option
def create(
    connection: Connection,
    nodes: tuple[str, ...],
    records: str | None,
    commitments: Path | None,
    of_node: str | None,
    labels: tuple[str, ...],
    on_nodes: tuple[str, ...],
    model: str | None,
    request_id: str | None,
    as_json: bool,
) -> None:
    """Request the removal of nodes, of records of a node, or of classes; one of these.

    The scope is printed before it is signed. The request is stored durably when the command ends.
    A repeated request id with the same scope returns the stored request.
    """
    if model is not None and not re.fullmatch("[0-9a-f]{64}", model):
        _refuse("--model: give the sha256 of the model file, 64 hexadecimal digits in lower case")
    for name in (*nodes, *labels, *on_nodes, *([] if of_node is None else [of_node])):
        if not is_name(name):
            _refuse(f"{name[:40]!r} is not a valid name; right is the data's name of it")
    scope = _scope(nodes, records, commitments, of_node, labels, on_nodes)
    if not as_json:
        click.echo(f"{'to be removed':<14}{_echo(scope)}")
    with connected(connection) as client:
        _print(client.create(scope, model=model, request_id=request_id), as_json)


@request.command()
@click.argument("id")
@connection_options
@json_option
def get(connection: Connection, id: str, as_json: bool) -> None:
    """Show a request."""
    with connected(connection) as client:
        _print(client.get(id), as_json)


@request.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES, case_sensitive=False),
    multiple=True,
    help="Only requests in this state. Repeatable.",
)
@connection_options
@json_option
def list_requests(connection: Connection, states: tuple[str, ...], as_json: bool) -> None:
    """List requests, the oldest first: an owner's own, or all for an operator."""
    from fedunlearn.requests.deletion import State

    with connected(connection) as client:
        found = list(client.list(State(state) for state in states))
    if as_json:
        print_json({"requests": [as_dict(one) for one in found]})
        return
    now = datetime.now(UTC)
    print_table(
        ("id", "owner", "state", "scope", "created", "due", "reason"),
        [
            (
                one.id,
                one.owner,
                _state(one),
                _what(one),
                _day(_time(one, "created")),
                _due(one, now),
                one.reason,
            )
            for one in found
        ],
    )


@request.command()
@click.argument("id")
@click.option(
    "--after",
    type=EVENT,
    default="0",
    metavar="EVENT",
    help="Only changes after this number.",
)
@connection_options
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per change.")
def watch(connection: Connection, id: str, after: int, as_json: bool) -> None:
    """Print every change of a request until it has ended."""
    with connected(connection) as client:
        for event in client.watch(id, after):
            entry = event_as_dict(event)
            if as_json:
                click.echo(json.dumps(entry, ensure_ascii=False))
                continue
            stage = f"/{entry['stage']}" if "stage" in entry else ""
            reason = f"  {entry['reason']}" if "reason" in entry else ""
            line = f"{entry['time']}  {entry['state']}{stage}  by {entry['actor']}{reason}"
            click.echo(f"{event.number:>6}  {printable(line)}")


@request.command()
@click.argument("id")
@connection_options
@json_option
def approve(connection: Connection, id: str, as_json: bool) -> None:
    """Approve a request that waits for approval (operators)."""
    with connected(connection) as client:
        _print(client.approve(id), as_json)


@request.command()
@click.argument("id")
@reason_option
@connection_options
@json_option
def reject(connection: Connection, id: str, reason: str, as_json: bool) -> None:
    """Reject a request that does not run (operators)."""
    with connected(connection) as client:
        _print(client.reject(id, reason), as_json)


@request.command()
@click.argument("id")
@connection_options
@json_option
def cancel(connection: Connection, id: str, as_json: bool) -> None:
    """Cancel a request of your own that does not run yet."""
    with connected(connection) as client:
        _print(client.cancel(id), as_json)


@request.command()
@click.argument("id")
@connection_options
@json_option
def retry(connection: Connection, id: str, as_json: bool) -> None:
    """Queue a failed request again (operators)."""
    with connected(connection) as client:
        _print(client.retry(id), as_json)


@request.command()
@click.argument("id")
@click.option(
    "--due",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    required=True,
    help="New due date, UTC.",
)
@reason_option
@connection_options
@json_option
def extend(connection: Connection, id: str, due: datetime, reason: str, as_json: bool) -> None:
    """Extend the due date of a request by up to two months, once (operators)."""
    with connected(connection) as client:
        _print(client.extend(id, due.replace(tzinfo=UTC), reason), as_json)


def as_dict(one: pb.Deletion) -> dict[str, object]:
    """Return a request as JSON; absent fields are left out."""
    from fedunlearn.rpc.v1 import deletion_pb2 as pb

    entry: dict[str, object] = {
        "id": one.id,
        "request_id": one.request_id,
        "owner": one.owner,
        "state": pb.State.Name(one.state).removeprefix("STATE_"),
        "scope": {
            "kind": one.kind,
            "count": one.count,
            "nodes": list(one.nodes),
            "labels": list(one.labels),
            "sha256": one.scope_sha256.hex(),
        },
    }
    if one.stage:
        entry["stage"] = pb.Stage.Name(one.stage).removeprefix("STAGE_")
    for name in ("created", "due", "expected", "ended"):
        if one.HasField(name):
            entry[name] = _time(one, name).isoformat()
    entry["near_due"] = one.near_due
    if one.reason:
        entry["reason"] = one.reason
    entry["attempts"] = one.attempts
    entry["last_event"] = one.last_event
    if one.model_before_sha256:
        entry["model_before"] = one.model_before_sha256.hex()
    if one.model_after_sha256:
        entry["model_after"] = one.model_after_sha256.hex()
    return entry


def event_as_dict(event: pb.Event) -> dict[str, object]:
    """Return a change as JSON; absent fields are left out."""
    from fedunlearn.rpc.v1 import deletion_pb2 as pb

    entry: dict[str, object] = {
        "number": event.number,
        "time": event.time.ToDatetime(UTC).isoformat(),
        "state": pb.State.Name(event.state).removeprefix("STATE_"),
        "actor": event.actor,
    }
    if event.stage:
        entry["stage"] = pb.Stage.Name(event.stage).removeprefix("STAGE_")
    if event.reason:
        entry["reason"] = event.reason
    return entry


def _print(one: pb.Deletion, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(one))
        return
    now = datetime.now(UTC)
    pairs = [
        ("id", one.id),
        ("request id", one.request_id),
        ("owner", one.owner),
        ("scope", _what(one)),
        ("state", _state(one)),
        ("created", _day(_time(one, "created"))),
        ("due", _due(one, now)),
        ("expected", _day(_time(one, "expected")) if one.HasField("expected") else ""),
        ("ended", _day(_time(one, "ended")) if one.HasField("ended") else ""),
        ("reason", one.reason),
        ("attempts", str(one.attempts) if one.attempts else ""),
        ("model before", one.model_before_sha256.hex()),
        ("model after", one.model_after_sha256.hex()),
    ]
    print_pairs([(name, value) for name, value in pairs if value])


def _state(one: pb.Deletion) -> str:
    entry = as_dict(one)
    return f"{entry['state']} ({entry['stage']})" if "stage" in entry else str(entry["state"])


def _echo(scope: pb.Scope) -> str:
    """Return a description of a scope, with counts and names, to print before it is signed."""
    from fedunlearn.requests.statement import scope_of

    found = scope_of(scope.SerializeToString())
    nodes = listed("node", found.nodes)
    if found.kind == "records":
        count = f"{found.count} record{_s(found.count)}"
        return printable(f"{count} of {nodes}: {_shown(list(found.records))}")
    if found.kind == "node":
        return printable(f"all data of {found.count} node{_s(found.count)}: {nodes}")
    where = nodes if found.nodes else "all nodes"
    count = "1 class" if found.count == 1 else f"{found.count} classes"
    return printable(f"{count} on {where}: {listed('class', found.labels)}")


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _what(one: pb.Deletion) -> str:
    """Return a short description of the scope of a request."""
    nodes = _listed("node", one.nodes)
    if one.kind == "node":
        return nodes
    if one.kind == "records":
        return f"{one.count} record{'' if one.count == 1 else 's'} of {nodes}"
    return f"{_listed('class', one.labels)} of {nodes if one.nodes else 'all nodes'}"


def _listed(one: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{listed(one, names[:SHOWN])}{more}"


def _due(one: pb.Deletion, now: datetime) -> str:
    due = _time(one, "due")
    if not one.near_due:
        return _day(due)
    left = due - now
    if left.total_seconds() < 0:
        return f"{_day(due)} OVERDUE"
    return f"{_day(due)} NEAR: {left.days} d {left.seconds // 3600} h left"


def _time(one: pb.Deletion, name: str) -> datetime:
    time: datetime = getattr(one, name).ToDatetime(UTC)
    return time


def _day(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%MZ")


def _refuse(message: str) -> NoReturn:
    raise InputError(message)


def _scope(
    nodes: tuple[str, ...],
    records: str | None,
    commitments: Path | None,
    of_node: str | None,
    labels: tuple[str, ...],
    on_nodes: tuple[str, ...],
) -> pb.Scope:
    from fedunlearn.requests.statement import class_scope, node_scope, record_scope

    if sum((bool(nodes), records is not None, bool(labels))) != 1:
        raise InputError("give one of --node, --records and --class")
    if on_nodes and not labels:
        raise InputError("--on-node: needs --class; whole nodes are removed with --node")
    if (commitments is not None or of_node is not None) and records is None:
        raise InputError("--commitments and --of-node need --records")
    if nodes:
        return node_scope(set(nodes))
    if labels:
        return class_scope(set(labels), set(on_nodes))
    assert records is not None
    if commitments is None or of_node is None:
        raise InputError("--records: needs --commitments and --of-node")
    from fedunlearn.commitments import Commitments

    positions = _positions(records)
    try:
        return record_scope(of_node, Commitments.load(commitments), positions)
    except VerificationError as error:
        raise InputError(f"--commitments: {error}") from None
    except IndexError as error:
        raise InputError(f"--records: {error}") from None
