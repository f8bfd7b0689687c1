"""What is wrong with the settings of the deletion service is said in one line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from fedunlearn.errors import InputError
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.metrics import Figures, Metrics
from fedunlearn.service.service_settings import load_settings
from fedunlearn.service.tls import server_credentials
from tests.deletions import ISSUER, START


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("quota-open = " + "1" * 5000, "is not valid TOML: .*digits"),
        ("a = " + "[" * 100_000, "is not valid TOML: it is nested too deeply"),
        ("a = " + "{a=" * 3000, "is not valid TOML: it is nested too deeply"),
        ("\xff", "is not valid TOML"),
        ("quota-open = 0", "quota-open"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "service.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=says) as raised:
        load_settings(path)
    assert "\n" not in str(raised.value)


def test_a_path_with_a_null_byte(tmp_path: Path) -> None:
    path = tmp_path / "service.toml"
    path.write_text('tls-certificate = "a.pem"\ntls-key = "a\\u0000b"\n')
    with pytest.raises(InputError, match=r"tls-key: .*a\\x00b' is not a valid path"):
        server_credentials(load_settings(path))


@pytest.mark.parametrize("host", ["a" * 70 + ".x", "..", "\ud800"])
def test_a_host_that_cannot_be_looked_up(tmp_path: Path, host: str) -> None:
    url = f"sqlite:///{tmp_path / 'requests.db'}"
    with RequestStore.open(url, issuer=ISSUER, durable=False) as store:
        metrics = Metrics(Figures(store, lambda: START, timedelta(days=7)))
        with pytest.raises(InputError, match=r"metrics: .* has no valid host"):
            metrics.listen(f"{host}:0")
