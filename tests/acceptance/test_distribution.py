"""The wheel that users install: reproducible, whole, and working outside of a clone."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.build_dist import ROOT, build_twice


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and sdist, by suffix; each was built twice with the same bytes."""
    return {path.suffix: path for path in build_twice(tmp_path_factory.mktemp("dist"))}


def test_the_wheel_holds_what_the_package_needs(built: dict[str, Path]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "fedunlearn"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = wheel.namelist()
        metadata = next(name for name in names if name.endswith("METADATA"))
        fields = email.message_from_bytes(wheel.read(metadata))
    assert {name for name in names if name.startswith("fedunlearn/")} == set(tracked)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert fields["Version"] == project["version"]
    assert fields["License-Expression"] == "Apache-2.0"


def test_the_installed_wheel_works_outside_of_a_clone(
    built: dict[str, Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, *options, built[".whl"]], check=True, timeout=120)
    smoke = shutil.copy(ROOT / "tests" / "smoke.py", tmp_path)
    done = subprocess.run(
        [sys.executable, smoke],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("works\n")


def test_version_changelog_and_citation_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
