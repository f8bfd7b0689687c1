"""Files that users edit: a byte-order mark does no harm, and what is damaged gets one line."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedunlearn.errors import InputError, KeyFileError
from fedunlearn.requests.keys import PrivateKey, PublicKey
from fedunlearn.scenario.loading import load_scenario
from fedunlearn.service.service_settings import load_settings
from fedunlearn.worker.worker_settings import FILE, WorkerSettings
from tests.certificates import Authority

READERS: dict[str, tuple[Callable[[Path], Any], str, Callable[[Any], bool]]] = {
    "scenario.toml": (load_scenario, "[data]\nseed = 7\n", lambda f: f.settings.data.seed == 7),
    "service.toml": (load_settings, 'federation = "ward"\n', lambda f: f.federation == "ward"),
    FILE: (
        lambda path: WorkerSettings.read(path.parent),
        "poll-s = 0.5\n",
        lambda found: found.poll_s == 0.5,
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_toml_may_begin_with_a_byte_order_mark(name: str, tmp_path: Path) -> None:
    read, text, right = READERS[name]
    for content in (text.encode(), codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode()):
        (tmp_path / name).write_bytes(content)
        assert right(read(tmp_path / name))


DAMAGED = {
    "utf-16": "a = 1".encode("utf-16"),
    "latin": 'a = "\xe9"'.encode("latin-1"),
    "cut off": b'[data]\nname = "di',
    "a null": b"a = 1\0",
    "deep": b"a = " + b"[" * 20_000,
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("name", READERS)
def test_toml_that_is_none_gets_one_line(name: str, damage: str, tmp_path: Path) -> None:
    read, _, _ = READERS[name]
    (tmp_path / name).write_bytes(DAMAGED[damage])
    with pytest.raises(InputError, match="is not valid TOML") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_keys_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    key.write(tmp_path / "key")
    (tmp_path / "key.pub").write_text(key.public.pem)
    for name in ("key", "key.pub"):
        marked = tmp_path / f"marked-{name}"
        marked.write_bytes(codecs.BOM_UTF8 + (tmp_path / name).read_bytes())
    assert PrivateKey.read(tmp_path / "marked-key").public == key.public
    assert PublicKey.read(tmp_path / "marked-key.pub") == key.public
    (tmp_path / "cut").write_bytes((tmp_path / "key").read_bytes()[:60])
    with pytest.raises(KeyFileError, match="is not a private key"):
        PrivateKey.read(tmp_path / "cut")


def test_certificates_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    from fedunlearn.service.tls import content

    pem = Authority.make(tmp_path, "own").certificate.read_bytes()
    (tmp_path / "ca.crt").write_bytes(codecs.BOM_UTF8 + pem)
    assert content(tmp_path / "ca.crt", "ca") == pem
