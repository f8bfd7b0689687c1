"""The real command, in a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

# All that this process starts inherits it, so that it is told from what others run meanwhile.
MARK = "FEDUNLEARN_TESTS"
os.environ[MARK] = uuid.uuid4().hex

FEDUNLEARN = Path(sys.executable).with_name("fedunlearn")


def in_this_process(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command without a process of its own, which takes seconds to start."""
    from fedunlearn.cli.main import main

    out, errors, status = io.StringIO(), io.StringIO(), 0
    before, given = os.getcwd(), sys.argv
    try:
        os.chdir(cwd)
        sys.argv = ["fedunlearn", *map(str, arguments)]
        with redirect_stdout(out), redirect_stderr(errors):
            main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.argv = given
        os.chdir(before)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), errors.getvalue())


def fedunlearn(
    *arguments: str | Path, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [FEDUNLEARN, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def processes(*names: str) -> set[int]:
    """Return the processes that this one has started, at any remove, whose command has a name."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    parents: dict[int, int] = {}
    ours: set[int] = set()
    named: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            variables = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended, or is another user's
            continue
        process = int(folder.name)
        parents[process] = parent
        if mark in variables:
            ours.add(process)
        if any(name in command for name in names):
            named.add(process)

    def is_ours(process: int) -> bool:
        # One that writes a title over its environment is told by who started it.
        while process not in ours and process in parents:
            process = parents[process]
        return process in ours

    return {process for process in named if is_ours(process)}
