"""Builds wheel and sdist twice, compares them, tries the wheel in an empty environment, and writes
the SBOM beside them. ``make dist`` runs it.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(out: Path) -> list[str]:
    """Build from a copy of what git tracks, dated by the last commit; returns the files' names."""
    git = ["git", "-C", str(ROOT)]
    time = subprocess.run([*git, "log", "-1", "--format=%ct"], capture_output=True, check=True)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": time.stdout.decode().strip()}
    with tempfile.TemporaryDirectory() as made:
        source = Path(made) / "source"
        source.mkdir()
        archive = subprocess.run([*git, "archive", "HEAD"], capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
        subprocess.run([*command, str(source)], env=environment, check=True, capture_output=True)
    return sorted(path.name for path in out.iterdir())


def build_twice(out: Path) -> list[Path]:
    """Build into a folder; fails where a second build gives other bytes."""
    with tempfile.TemporaryDirectory() as made:
        names = build(out)
        assert names == build(Path(made)), names
        differ = [name for name in names if not filecmp.cmp(out / name, Path(made) / name, False)]
        assert not differ, f"not reproducible: {', '.join(differ)}"
    return [out / name for name in names]


def try_out(wheel: Path) -> None:
    """Install a wheel with its locked dependencies in an empty environment and try it there."""
    with tempfile.TemporaryDirectory() as made:
        environment, elsewhere = Path(made) / "venv", Path(made) / "elsewhere"
        elsewhere.mkdir()
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        python = environment / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", ROOT / "constraints.txt", wheel], check=True)
        smoke = shutil.copy(ROOT / "tests" / "smoke.py", elsewhere)
        subprocess.run([python, smoke], cwd=elsewhere, check=True)
        bom = wheel.with_name(f"{wheel.name.split('-py3')[0]}.cdx.json")
        command = [sys.executable, "-m", "cyclonedx_py", "environment", str(python)]
        options = ["--output-reproducible", "--pyproject", str(ROOT / "pyproject.toml")]
        subprocess.run([*command, *options, "--output-file", str(bom)], check=True)


def main() -> None:
    """Write a release into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--build-only", action="store_true", help="no environment, no SBOM")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    built = build_twice(arguments.out)
    if not arguments.build_only:
        try_out(next(path for path in built if path.suffix == ".whl"))
    for path in sorted(arguments.out.iterdir()):
        print(path)


if __name__ == "__main__":
    main()
