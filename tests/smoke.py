"""What an installed fedunlearn must do anywhere: import, answer for itself, run, and verify.

Run it with the Python of an environment in which the wheel is installed, outside of a clone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = Path(sys.executable).with_name("fedunlearn")


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([COMMAND, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    """Import every public name, print the version, and run the main job with its receipt."""
    import fedunlearn
    import fedunlearn.flower
    import fedunlearn.testing

    for package in (fedunlearn, fedunlearn.flower, fedunlearn.testing):
        for name in package.__all__:
            getattr(package, name)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        assert fedunlearn.__version__ in run("--version", cwd=folder)
        few = ["training.rounds=3", "evaluation.oracles=1", "data.limit=300"]
        run("demo", *(part for one in few for part in ("--set", one)), "--out", "out", cwd=folder)
        results = json.loads((folder / "out" / "results.json").read_text())
        assert results["fedunlearn"] == fedunlearn.__version__
        assert results["requests"][0]["methods"]["cubic-newton"]["claim"] == "EMPIRICAL"
        assert (folder / "out" / "report.html").is_file()
    print(f"fedunlearn {fedunlearn.__version__} works")


if __name__ == "__main__":
    main()
