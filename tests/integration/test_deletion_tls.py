"""The deletion service over TLS, and with client certificates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedunlearn.errors import InputError, ServiceError
from fedunlearn.requests.statement import node_scope
from fedunlearn.service.client import DeletionClient
from tests.certificates import Authority
from tests.deletion_house import KEYS, House, house, now
from tests.deletion_wire import wait_until_revoked


@contextmanager
def secured(folder: Path, *, mutual: bool) -> Iterator[tuple[House, Authority]]:
    authority = Authority.make(folder, "authority")
    certificate, key = authority.issue("server")
    settings: dict[str, object] = {"tls-certificate": str(certificate), "tls-key": str(key)}
    if mutual:
        settings["client-ca"] = str(authority.certificate)
    with house(folder / "state", **settings) as opened:
        yield opened, authority


def client_of(
    opened: House,
    authority: Authority,
    signer: str | None,
    certificate: tuple[Path, Path] | None = None,
) -> DeletionClient:
    return DeletionClient(
        opened.address,
        KEYS[signer] if signer else None,
        root_certificates=authority.certificate.read_bytes(),
        certificate=certificate[0].read_bytes() if certificate else None,
        certificate_key=certificate[1].read_bytes() if certificate else None,
        timeout_s=1.0,
    )


def refusal(client: DeletionClient) -> ServiceError:
    with client, pytest.raises(ServiceError) as found:
        list(client.list())
    return found.value


def key_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.signing.key"
    KEYS[name].write(path)
    return path


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedunlearn.service.client.PAUSES_S", (0.01,))
    with secured(tmp_path, mutual=False) as (opened, authority):
        with client_of(opened, authority, "alice") as client:
            assert client.create(node_scope(["0"])).owner == "alice"
        (tmp_path / "other").mkdir()
        other = Authority.make(tmp_path / "other", "other")
        assert refusal(client_of(opened, other, "alice")).code == "UNAVAILABLE"
        plain = DeletionClient(opened.address, KEYS["alice"], plaintext=True, timeout_s=1.0)
        assert refusal(plain).code in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
        assert refusal(client_of(opened, authority, None)).reason == "CREDENTIAL_MISSING"


def test_a_client_certificate_of_a_registered_key_is_a_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedunlearn.service.client.PAUSES_S", (0.01,))
    with secured(tmp_path, mutual=True) as (opened, authority):
        assert refusal(client_of(opened, authority, "alice")).code == "UNAVAILABLE"
        operator = authority.issue("op", key_file(tmp_path, "op"))
        proxy = authority.issue("proxy")
        with client_of(opened, authority, "alice", proxy) as client:
            id = client.create(node_scope(["0"])).id
        with client_of(opened, authority, None, operator) as client:
            assert [one.id for one in client.list()] == [id]
            assert client.reject(id, "no").reason == "no"
            assert [event.actor for event in client.watch(id)] == ["owner alice", "operator op"]
        with client_of(opened, authority, "bob", operator) as client:
            assert list(client.list()) == []  # what is signed counts for more
        assert refusal(client_of(opened, authority, None, proxy)).reason == "CREDENTIAL_MISSING"
        (tmp_path / "other").mkdir()
        stranger = Authority.make(tmp_path / "other", "other").issue("op", operator[1])
        assert refusal(client_of(opened, authority, None, stranger)).code == "UNAVAILABLE"
        opened.store.revoke_key(KEYS["op"].public.id, now=now())
        with client_of(opened, authority, None, operator) as client:
            wait_until_revoked(client)
        assert refusal(client_of(opened, authority, None, operator)).reason == "KEY_REVOKED"


def test_files_of_tls_are_checked_before_the_port(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "authority")
    certificate, _ = authority.issue("server")
    _, other = authority.issue("other")
    for pair, says in (
        ((certificate, tmp_path / "nowhere"), "tls-key: .*nowhere cannot be read"),
        ((certificate, other), "is not the certificate of tls-key"),
        ((certificate, certificate), "damaged or encrypted"),
    ):
        settings = {"tls-certificate": str(pair[0]), "tls-key": str(pair[1])}
        with pytest.raises(InputError, match=says), house(tmp_path / "state", **settings):
            pass
    with pytest.raises(InputError, match="must be given together with tls-key"):
        with house(tmp_path / "state", **{"tls-certificate": str(certificate)}):
            pass
    with pytest.raises(InputError, match="client-ca: needs"):
        with house(tmp_path / "state", **{"client-ca": str(certificate)}):
            pass


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not a PEM file"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no valid certificate"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no valid certificate"),
    ],
)
def test_a_client_ca_that_is_none_is_not_taken_for_a_busy_port(
    tmp_path: Path, content: str, says: str
) -> None:
    certificate, key = Authority.make(tmp_path, "authority").issue("server")
    path = tmp_path / "clients.pem"
    path.write_text(content)
    files = {"tls-certificate": certificate, "tls-key": key, "client-ca": path}
    settings = {name: str(file) for name, file in files.items()}
    with pytest.raises(InputError, match=f"client-ca: .*{says}"):
        with house(tmp_path / "state", **settings):
            pass
