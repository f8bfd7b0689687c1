"""Merkle trees of an append-only log.

Source: RFC 9162, section 2.1. A tree of n leaves splits at the largest power of two below n, which
is the same as pairing neighbours level by level and passing an odd last hash up unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from fedunlearn.errors import VerificationError

EMPTY = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The root of a growing list of leaves, in logarithmic memory and time per leaf."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        """Begin with the hashes of some leaves."""
        self.size = 0
        self._peaks: list[bytes] = []  # roots of complete subtrees, the largest first
        for leaf in leaves:
            self.append(leaf)

    @classmethod
    def resumed(cls, size: int, peaks: Sequence[bytes]) -> Frontier:
        """Return the frontier with these peaks.

        Args:
            size: Number of its leaves.
            peaks: The peaks, as ``peaks`` returned them.

        Raises:
            VerificationError: A tree of that size has another number of peaks.
        """
        if size < 0 or len(peaks) != size.bit_count() or any(len(peak) != 32 for peak in peaks):
            raise VerificationError(f"a tree of {size} leaves has other peaks than {len(peaks)}")
        found = cls()
        found.size, found._peaks = size, list(peaks)
        return found

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """The roots of complete subtrees, the largest first."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add the hash of a leaf."""
        size = self.size
        while size & 1:
            leaf = node_hash(self._peaks.pop(), leaf)
            size >>= 1
        self._peaks.append(leaf)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The root of the tree of all leaves so far."""
        if not self._peaks:
            return EMPTY
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over the hashes of leaves."""
    return Frontier(leaves).root


def levels(leaves: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Return all hashes of a tree, from the leaves up to the root, for many proofs of one tree."""
    found = [leaves]
    while len(found[-1]) > 1:
        below = found[-1]
        above = [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        found.append(above + list(below[len(below) & ~1 :]))
    return found


def path(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """Return the inclusion proof of a leaf in a tree whose hashes are all available.

    Args:
        levels: The hashes that the function ``levels`` returned.
        index: Position of the leaf, from 0.

    Returns:
        The hashes from the leaf up to the root.

    Raises:
        IndexError: There is no such leaf.
    """
    if not 0 <= index < len(levels[0]):
        raise IndexError(f"no leaf {index} in a tree of {len(levels[0])}")
    proof = []
    for level in levels[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        index >>= 1
    return proof


def verify_inclusion(
    root: bytes, size: int, index: int, leaf_hash: bytes, path: Sequence[bytes]
) -> None:
    """Check that a leaf is in a tree (2.1.3.2).

    Args:
        root: Root of the tree.
        size: Number of leaves of the tree.
        index: Position of the leaf, from 0.
        leaf_hash: Hash of the leaf.
        path: The inclusion proof.

    Raises:
        VerificationError: The proof does not show that the leaf is in the tree.
    """
    if not 0 <= index < size:
        raise VerificationError(f"leaf {index} is outside of a tree of {size}")
    first, last = index, size - 1
    found = leaf_hash
    for sibling in path:
        if last == 0:
            raise VerificationError("the inclusion proof is too long")
        if first & 1 or first == last:
            found = node_hash(sibling, found)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        first >>= 1
        last >>= 1
    if last != 0 or found != root:
        raise VerificationError(f"the inclusion proof of leaf {index} does not lead to the root")


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """Return the proof that a tree begins with the leaves of a smaller one (2.1.4.1).

    Args:
        leaves: Hashes of all leaves.
        first: Number of leaves of the smaller tree.

    Returns:
        The hashes; empty where one of the trees is empty, or both are equal.

    Raises:
        IndexError: The smaller tree would be larger than the other one.
    """
    if not 0 <= first <= len(leaves):
        raise IndexError(f"no tree of {first} in one of {len(leaves)}")
    if first in (0, len(leaves)):
        return []
    node, proof = first - 1, []
    tree = levels(leaves)
    depth = 0
    while node & 1:
        node >>= 1
        depth += 1
    # Where the smaller tree is complete, the verifier knows its root.
    if node:
        proof.append(tree[depth][node])
    for level in tree[depth:-1]:
        sibling = node ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        node >>= 1
    return proof


def verify_consistency(
    first_size: int, first_root: bytes, second_size: int, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that a tree begins with the leaves of a smaller one (2.1.4.2).

    Args:
        first_size: Number of leaves of the smaller tree.
        first_root: Root of the smaller tree.
        second_size: Number of leaves of the larger tree.
        second_root: Root of the larger tree.
        proof: The consistency proof.

    Raises:
        VerificationError: The proof does not show it.
    """
    wrong = VerificationError(
        f"the tree of {second_size} does not begin with the tree of {first_size}"
    )
    if not 0 <= first_size <= second_size:
        raise wrong
    if first_size in (0, second_size):
        same = first_root == (EMPTY if first_size == 0 else second_root)
        if proof or not same:
            raise wrong
        return
    path = list(proof)
    if first_size & (first_size - 1) == 0:
        path.insert(0, first_root)
    if not path:
        raise wrong
    first, second = first_size - 1, second_size - 1
    while first & 1:
        first >>= 1
        second >>= 1
    smaller = larger = path[0]
    for sibling in path[1:]:
        if second == 0:
            raise wrong
        if first & 1 or first == second:
            smaller = node_hash(sibling, smaller)
            larger = node_hash(sibling, larger)
            while not first & 1 and first:
                first >>= 1
                second >>= 1
        else:
            larger = node_hash(larger, sibling)
        first >>= 1
        second >>= 1
    if second != 0 or smaller != first_root or larger != second_root:
        raise wrong
