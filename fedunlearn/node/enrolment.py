"""What a node says of itself when it enrols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedunlearn.errors import ModelDiffersError
from fedunlearn.networks import NetworkDigest


@dataclass(frozen=True)
class Enrolment:
    """What a node says of itself.

    Attributes:
        node: Its number.
        examples: How many it holds that were not removed.
        root: Merkle root of its commitments to its records; None where it keeps none.
        records: How many it committed to, removed ones included.
        left: Whether it has left as a whole.
        network: What it computes on; None where it does not say.
    """

    node: int
    examples: int
    root: bytes | None = None
    records: int = 0
    left: bool = False
    network: NetworkDigest | None = None


def require_same_network(
    enrolments: Mapping[int, Enrolment],
    own: NetworkDigest | None = None,
    *,
    sent: Collection[str] = (),
) -> NetworkDigest | None:
    """Refuse nodes that compute on other networks than the rest, or than the server.

    Args:
        enrolments: What every node says of itself, by its number.
        own: The server's network; without one, the one that most nodes have is right.
        sent: Names in ``state_dict`` of tensors that the server has trained values of, which are
            not compared here; see ``state_to_transfer``.

    Returns:
        Digest of the network without what is sent; None where it is not known.

    Raises:
        ModelDiffersError: Naming the nodes and the first part that differs.
    """
    said = {
        node: one.network.without(sent)
        for node, one in sorted(enrolments.items())
        if one.network and not one.left
    }
    if own is None:
        if not said:
            return None
        counts = Counter(network.digest for network in said.values())
        most = counts.most_common(1)[0][0]
        own = next(network for network in said.values() if network.digest == most)
        against = "most nodes"
    else:
        own, against = own.without(sent), "the server"
    differs = {
        node: difference
        for node, network in said.items()
        if (difference := own.difference(network))
    }
    if differs:
        difference = next(iter(differs.values()))
        alike = [other for other, one in differs.items() if one == difference]
        more = len(differs) - len(alike)
        raise ModelDiffersError(
            f"node {', '.join(map(str, alike))}: model: {difference}, compared with {against}"
            f"{f' (so do {more} more nodes)' if more else ''}; let every node build the same "
            "network: the same code, frozen parameters and buffers from the same file or seed"
        )
    return own
