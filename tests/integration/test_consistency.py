"""A log proves that it has only grown; one that was cut or replaced cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedunlearn.errors import InputError, VerificationError
from fedunlearn.requests.consistency import (
    head_document,
    last_head_in,
    prove_consistency,
    verify_consistency,
)
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.ledger import export_ledger, verify_export, verify_ledger
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.state import open_state
from tests.deletions import (
    ISSUER,
    OLGA,
    START,
    completed,
    heads_of,
    keep_model,
    leased,
    made,
    populate,
)

COMMAND = Path(sys.executable).with_name("fedunlearn")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RequestStore]:
    url = f"sqlite:///{tmp_path / 'requests.db'}"
    with RequestStore.open(url, issuer=ISSUER, durable=False) as opened:
        populate(opened)
        made(opened)
        completed(opened, leased(opened), "second")
        yield opened


def test_every_older_head_is_proved_and_no_other(store: RequestStore) -> None:
    heads = heads_of(store)
    assert len(heads) > 3
    for older in heads:
        proof = json.loads(json.dumps(prove_consistency(store, older)))
        assert verify_consistency(proof, ISSUER.public, older) == heads[-1]
        assert verify_ledger(store, ISSUER.public, None, older) == []
        for other in heads:
            if other != older:
                with pytest.raises(
                    VerificationError, match="does not begin with the given tree head"
                ):
                    verify_consistency(proof, ISSUER.public, other)


def test_a_log_that_was_restored_and_continued_cannot_be_proved(
    store: RequestStore, tmp_path: Path
) -> None:
    older = heads_of(store)[-1]
    url = f"sqlite:///{tmp_path / 'another.db'}"
    with RequestStore.open(url, issuer=ISSUER, durable=False) as restored:
        populate(restored)
        with pytest.raises(VerificationError, match="fewer than the"):
            prove_consistency(restored, older)
        for number in range(3):
            key = PrivateKey.generate("p256").public
            restored.register_key(f"owner {number}", "owner", key, [str(20 + number)], now=START)
        found = [one.what for one in verify_ledger(restored, ISSUER.public, None, older)]
        assert found == ["the log does not contain it: the log was cut, or is another log"]
        exported = verify_export(export_ledger(restored), ISSUER.public, older)
        assert [one.what for one in exported] == found


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a hash of the proof": lambda d: d["proof"].__setitem__(0, "00" * 32),
    "a hash too many": lambda d: d["proof"].append("00" * 32),
    "a hash too few": lambda d: d["proof"].pop(),
    "the newer root": lambda d: d["second"].update(root="00" * 32),
    "the newer size": lambda d: d["second"].update(size=d["second"]["size"] + 1),
    "the format": lambda d: d.update(format="another"),
    "no newer head": lambda d: d.pop("second"),
    "a size that is a text": lambda d: d["second"].update(size="7"),
    "a proof that is a number": lambda d: d.update(proof=7),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_proof_does_not_verify(store: RequestStore, change: str) -> None:
    older = heads_of(store)[1]
    proof = json.loads(json.dumps(prove_consistency(store, older)))
    CHANGES[change](proof)
    with pytest.raises(VerificationError):
        verify_consistency(proof, ISSUER.public, older)


def test_a_head_of_another_key_is_refused(store: RequestStore) -> None:
    older = heads_of(store)[1]
    other = PrivateKey.generate("ed25519").public
    with pytest.raises(VerificationError):
        verify_consistency(prove_consistency(store, older), other, older)
    assert verify_ledger(store, other, None, older)


def test_heads_are_found_in_heads_receipts_exports_and_proofs(store: RequestStore) -> None:
    last = heads_of(store)[-1]
    proof = prove_consistency(store, heads_of(store)[0])
    for document in (head_document(last), export_ledger(store), proof):
        assert last_head_in(json.loads(json.dumps(document))) == last
    for document in ({}, {"payload": "?"}, {"heads": []}, {"root": 1}):
        with pytest.raises((InputError, VerificationError)):
            last_head_in(document)


def test_the_commands_prove_and_verify(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with open_state(folder) as state:
        keep_model(state.models, "first")
        populate(state.store)
    files = {name: tmp_path / f"{name}.json" for name in ("head", "proof", "other")}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, "ledger", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("head", "--state", folder, "--out", files["head"]).returncode == 0
    with open_state(folder) as state:
        state.store.revoke_key(OLGA.public.id, now=START)
    since = ("--since", files["head"])
    done = run("prove", "--state", folder, *since, "--out", files["proof"])
    assert done.returncode == 0, done.stderr
    key = ("--key", folder / "issuer.pub")
    done = run("verify", files["proof"], *since, *key)
    assert (done.returncode, done.stdout) == (0, f"{files['proof']}: verified, no errors\n")
    assert run("verify", "--state", folder, *since).returncode == 0
    done = run("verify", files["proof"], *key)
    assert done.returncode == 2 and "--since" in done.stderr

    another = tmp_path / "another"
    with open_state(another):
        pass
    (another / "issuer.key").write_bytes((folder / "issuer.key").read_bytes())
    done = run("prove", "--state", another, *since)
    assert done.returncode == 1 and "rows are missing at its end" in done.stderr
    head = json.loads(files["head"].read_text())
    files["other"].write_text(json.dumps(head | {"root": "zz"}))
    done = run("prove", "--state", folder, "--since", files["other"])
    assert done.returncode == 2 and f"--since {files['other']}: the tree head" in done.stderr
    files["other"].write_text("{}")
    done = run("prove", "--state", folder, "--since", files["other"])
    assert done.returncode == 2 and "contains no tree head" in done.stderr
