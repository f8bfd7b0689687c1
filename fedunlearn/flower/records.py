"""Conversion of enrolments, headers and tensors to and from Flower's records."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from torch import Tensor

from fedunlearn.errors import BadAnswerError
from fedunlearn.networks import NetworkDigest
from fedunlearn.node.enrolment import Enrolment
from fedunlearn.questions.forget import Part


def enrolment_record(enrolment: Enrolment) -> ConfigRecord:
    """Return a node's enrolment as a record."""
    header = ConfigRecord({"node": enrolment.node, "examples": enrolment.examples})
    if enrolment.root is not None:
        header["root"] = enrolment.root
    removed_before = enrolment.records > enrolment.examples
    if enrolment.root is not None or enrolment.left or removed_before:
        header["records"] = enrolment.records
        header["left"] = int(enrolment.left)
    if enrolment.network is not None:
        header["parts"] = list(enrolment.network.parts)
        header["digests"] = list(enrolment.network.parts.values())
    return header


def enrolment_in(header: ConfigRecord) -> Enrolment:
    """Read a node's enrolment.

    Args:
        header: A record that ``enrolment_record`` returned.

    Returns:
        The enrolment.

    Raises:
        BadAnswerError: The record cannot be read.
    """
    node, examples = (int(config_number(header, key)) for key in ("node", "examples"))
    network = _network(node, header)
    root = header.get("root")
    if "records" not in header:
        return Enrolment(node, examples, network=network)
    if root is not None and not isinstance(root, bytes):
        raise BadAnswerError(f"node {node} enrolled with a Merkle root that is not a digest")
    records, left = (int(config_number(header, key)) for key in ("records", "left"))
    return Enrolment(node, examples, root, records, bool(left), network)


def _network(node: int, header: ConfigRecord) -> NetworkDigest | None:
    parts, digests = header.get("parts"), header.get("digests")
    if parts is None and digests is None:
        return None
    if not isinstance(parts, list) or not isinstance(digests, list) or len(parts) != len(digests):
        raise BadAnswerError(f"node {node} enrolled with a network that is not described")
    named = zip(parts, digests, strict=True)
    return NetworkDigest({str(name): part for name, part in named if isinstance(part, bytes)})


def header_bytes(message: Message, name: str) -> bytes:
    """Return the protobuf header of a message.

    Raises:
        ValueError: The header is of another type.
    """
    header = message.content.config_records["header"][name]
    if not isinstance(header, bytes):
        raise ValueError(f"header {name!r} is {type(header).__name__}, not bytes")
    return header


def config_number(config: ConfigRecord, key: str) -> float:
    """Return a number of a config record.

    Raises:
        ValueError: The value is of another type.
    """
    value = config[key]
    if not isinstance(value, int | float):
        raise ValueError(f"config {key!r} is {type(value).__name__}, not a number")
    return value


def tensors_to_record(tensors: Mapping[str, Tensor] | Mapping[Part, Tensor]) -> ArrayRecord:
    """Pack tensors for a message."""
    return ArrayRecord(
        {str(name): Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()}
    )


def tensors_from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """Unpack tensors from a message.

    They are copied into memory that torch allocates: the receiver may write to them, and they are
    aligned. On other memory the last bits of a matrix product depend on the alignment.

    Returns:
        The tensors by name.
    """
    return {str(name): torch.tensor(array.numpy()) for name, array in record.items()}
