"""The random search: runs all tests that draw examples, with new seeds, until one fails.

Run as ``python -m tests.fuzz``; 'make fuzz' does so for an hour.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time

from tests.laws import FUZZ_SEED

DRAW = "hypothesis or fuzzed"


def search(paths: list[str], seconds: float, seed: int | None) -> int:
    """Run the tests again and again.

    Args:
        paths: Where they are.
        seconds: After which no further run begins.
        seed: Of the only run; None for one after the other, each with a new one.

    Returns:
        The exit status of the run that failed, 0 for none.
    """
    end = time.monotonic() + seconds
    runs = 0
    while True:
        runs += 1
        drawn = secrets.randbelow(2**31) if seed is None else seed
        again = f"python -m tests.fuzz --seed {drawn} {' '.join(paths)}"
        print(f"fuzz: run {runs}, seed {drawn}", flush=True)
        options = ["-q", "-m", DRAW, "-p", "no:cacheprovider", "--timeout", "3600", "-x"]
        command = [sys.executable, "-m", "pytest", *options, f"--hypothesis-seed={drawn}", *paths]
        status = subprocess.run(command, env=os.environ | {FUZZ_SEED: str(drawn)}).returncode
        if status:
            print(f"fuzz: failed in run {runs}; to repeat it: {again}", flush=True)
            return status
        if seed is not None or time.monotonic() >= end:
            print(f"fuzz: {runs} runs, nothing found", flush=True)
            return 0


def main() -> int:
    """Read the command line and search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", default=["tests/property", "tests/unit"])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, help="of one run that is to be repeated")
    given = parser.parse_args()
    return search(given.paths, given.seconds, given.seed)


if __name__ == "__main__":
    sys.exit(main())
