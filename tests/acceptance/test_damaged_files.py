"""Damaged files end a command with one line and status 2, before anything is trained."""

from __future__ import annotations

import codecs
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.commands import in_this_process
from tests.unit.test_idx import DAMAGED, IMAGES, LABELS, idx, write

IDX = '[data]\nname = "idx"\npath = "images"\nnodes = 2\npartition = "iid"\n'
READING = """
import sys, click
from fedunlearn.cli import main

@main.cli.command()
def read():
    raise EOFError("Ran out of input")

sys.argv = ["fedunlearn", "read"]
main.main()
"""


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = in_this_process("run", "scenario.toml", *arguments, cwd=folder)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["truncated gzip", "70 dimensions", "other size in the test"])
def test_damaged_images(name: str, tmp_path: Path) -> None:
    changed, says = DAMAGED[name]
    (tmp_path / "images").mkdir()
    write(tmp_path / "images", **changed)
    (tmp_path / "scenario.toml").write_text(IDX)
    status, out, errors = run(tmp_path)
    assert (status, out, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("fedunlearn: data.path: ") and says in errors


def test_a_csv_that_ends_early(tmp_path: Path) -> None:
    packed = gzip.compress(b"x,y\n" + b"1,0\n2,1\n" * 400)
    (tmp_path / "t.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "scenario.toml").write_text(
        '[data]\nname = "csv"\npath = "t.csv.gz"\nlabel = "y"\npartition = "iid"\n'
    )
    status, out, errors = run(tmp_path)
    assert (status, out, errors.count("\n")) == (2, "", 1)
    assert "cannot be unpacked" in errors


def test_an_end_of_file_is_no_interrupt() -> None:
    done = subprocess.run([sys.executable, "-c", READING], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("fedunlearn: a file is cut off; give the whole file\n")


def test_a_scenario_with_a_byte_order_mark_runs(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    images = np.tile(IMAGES, (6, 1, 1))
    labels = np.tile(LABELS, 6)
    whole = {"images": idx(images), "labels": idx(labels), "test_images": idx(IMAGES[:3])}
    write(tmp_path / "images", **whole)
    text = (
        f'{IDX}[model]\nname = "logistic"\n[training]\nrounds = 1\n[evaluation]\noracles = 1\n'
        '[unlearning]\nmethods = ["fine-tune"]\n'
    )
    (tmp_path / "scenario.toml").write_bytes(codecs.BOM_UTF8 + text.encode())
    status, out, errors = run(tmp_path, "--transport", "inline")
    assert (status, errors) == (0, "") and "scenario: node" in out
