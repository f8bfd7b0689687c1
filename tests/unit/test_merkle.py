"""Merkle trees: the vectors of Certificate Transparency, and a tree by its recursive definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn import merkle
from fedunlearn.errors import VerificationError
from tests.laws import laws

# Of the reference implementation of RFC 6962, whose trees RFC 9162 keeps.
_DATA = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
_LEAVES = [merkle.leaf_hash(data) for data in _DATA]
_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
_C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
_D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
_E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"

leaf_lists = st.integers(1, 70).map(
    lambda n: [merkle.leaf_hash(i.to_bytes(2, "big")) for i in range(n)]
)


def _split(size: int) -> int:
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def naive_root(leaves: list[bytes]) -> bytes:
    if len(leaves) <= 1:
        return leaves[0] if leaves else merkle.EMPTY
    k = _split(len(leaves))
    return merkle.node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


def naive_path(leaves: list[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*naive_path(leaves[:k], index), naive_root(leaves[k:])]
    return [*naive_path(leaves[k:], index - k), naive_root(leaves[:k])]


def naive_consistency(leaves: list[bytes], first: int, whole: bool = True) -> list[bytes]:
    if first == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = _split(len(leaves))
    if first <= k:
        return [*naive_consistency(leaves[:k], first, whole), naive_root(leaves[k:])]
    return [*naive_consistency(leaves[k:], first - k, False), naive_root(leaves[:k])]


def test_roots_are_those_of_certificate_transparency() -> None:
    assert merkle.EMPTY.hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert [merkle.root(_LEAVES[:n]).hex() for n in range(1, 9)] == _ROOTS


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [_A, _B, _C]),
        (5, 8, [_D, _E, _ROOTS[3]]),
        (2, 3, [_ROOTS[1]]),
        (1, 5, [_ROOTS[0], _B, _D]),
    ],
)
def test_inclusion_proofs_are_those_of_certificate_transparency(
    index: int, size: int, path: list[str]
) -> None:
    proof = merkle.path(merkle.levels(_LEAVES[:size]), index)
    assert [step.hex() for step in proof] == path
    merkle.verify_inclusion(bytes.fromhex(_ROOTS[size - 1]), size, index, _LEAVES[index], proof)


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        (1, 1, []),
        (1, 8, [_A, _B, _C]),
        (6, 8, [_F, _E, _ROOTS[3]]),
        (2, 5, [_B, _D]),
    ],
)
def test_consistency_proofs_are_those_of_certificate_transparency(
    first: int, second: int, path: list[str]
) -> None:
    proof = merkle.consistency_proof(_LEAVES[:second], first)
    assert [step.hex() for step in proof] == path
    roots = [bytes.fromhex(_ROOTS[size - 1]) for size in (first, second)]
    merkle.verify_consistency(first, roots[0], second, roots[1], proof)


@laws(60)
@given(leaf_lists, st.data())
def test_a_tree_is_the_recursive_one(leaves: list[bytes], data: st.DataObject) -> None:
    root = merkle.root(leaves)
    assert root == naive_root(leaves) == merkle.levels(leaves)[-1][0]
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.path(merkle.levels(leaves), index)
    assert path == naive_path(leaves, index)
    merkle.verify_inclusion(root, len(leaves), index, leaves[index], path)
    first = data.draw(st.integers(1, len(leaves)))
    proof = merkle.consistency_proof(leaves, first)
    assert proof == naive_consistency(leaves, first)
    merkle.verify_consistency(first, naive_root(leaves[:first]), len(leaves), root, proof)


@laws(100)
@given(leaf_lists, st.data())
def test_what_is_wrong_in_a_proof_is_found(leaves: list[bytes], data: st.DataObject) -> None:
    size, root = len(leaves), merkle.root(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = merkle.path(merkle.levels(leaves), index)
    wrong = data.draw(st.sampled_from(["leaf", "root", "index", "longer", "shorter", "step"]))
    leaf, other = leaves[index], bytes(32)
    if wrong == "leaf":
        leaf = other
    elif wrong == "root":
        root = other
    elif wrong == "index":
        index = data.draw(st.integers(-2, size + 2).filter(lambda i: i != index))
    elif wrong == "longer":
        path.append(other)
    elif wrong == "shorter" and path:
        path.pop(data.draw(st.integers(0, len(path) - 1)))
    elif path:
        path[data.draw(st.integers(0, len(path) - 1))] = other
    else:
        return
    with pytest.raises(VerificationError):
        merkle.verify_inclusion(root, size, index, leaf, path)


@laws(100)
@given(leaf_lists, st.data())
def test_a_log_that_was_rewritten_is_found(leaves: list[bytes], data: st.DataObject) -> None:
    first = data.draw(st.integers(1, len(leaves)))
    before = merkle.root(leaves[:first])
    leaves[data.draw(st.integers(0, first - 1))] = bytes(32)
    proof = merkle.consistency_proof(leaves, first)
    with pytest.raises(VerificationError):
        merkle.verify_consistency(first, before, len(leaves), merkle.root(leaves), proof)


@pytest.mark.parametrize(
    ("first", "root", "second", "proof"),
    [
        (0, bytes(32), 8, []),
        (0, merkle.EMPTY, 8, [bytes(32)]),
        (9, bytes(32), 8, []),
        (3, bytes(32), 8, []),
        (8, bytes(32), 8, []),
    ],
)
def test_sizes_and_roots_that_do_not_fit(
    first: int, root: bytes, second: int, proof: list[bytes]
) -> None:
    with pytest.raises(VerificationError):
        merkle.verify_consistency(first, root, second, merkle.root(_LEAVES), proof)


def test_every_tree_begins_with_the_empty_one() -> None:
    assert merkle.consistency_proof(_LEAVES, 0) == []
    merkle.verify_consistency(0, merkle.EMPTY, 8, merkle.root(_LEAVES), [])
    with pytest.raises(IndexError):
        merkle.consistency_proof(_LEAVES, 9)
    with pytest.raises(IndexError):
        merkle.path(merkle.levels(_LEAVES), 8)


@given(st.integers(0, 300), st.integers(0, 40))
def test_a_frontier_goes_on_from_its_peaks(size: int, more: int) -> None:
    leaves = [merkle.leaf_hash(str(number).encode()) for number in range(size + more)]
    kept = merkle.Frontier(leaves[:size])
    resumed = merkle.Frontier.resumed(kept.size, kept.peaks)
    for leaf in leaves[size:]:
        resumed.append(leaf)
    assert (resumed.size, resumed.root) == (size + more, merkle.root(leaves))
    with pytest.raises(VerificationError, match="has other peaks"):
        merkle.Frontier.resumed(size, [*kept.peaks, merkle.EMPTY])
