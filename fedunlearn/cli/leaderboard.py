"""``fedunlearn leaderboard``: methods tuned and compared over many scenarios, in one command."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.cli.lab_options import (
    cache_option,
    jobs_option,
    json_option,
    out_option,
    processes,
)
from fedunlearn.files import write_whole


@click.command()
@click.argument("board", type=click.Path(path_type=Path), metavar="BOARD.toml")
@click.option("--quick", is_flag=True, help="Run the small board only: two seeds and two trials.")
@click.option(
    "--estimate",
    is_flag=True,
    help="Print about how long it takes, by a few measured steps, and run nothing.",
)
@jobs_option
@cache_option
@out_option("leaderboard", "leaderboard.md, leaderboard.json and the cache")
@json_option("leaderboard.json")
def leaderboard(
    board: Path,
    quick: bool,
    estimate: bool,
    jobs: int | None,
    cache: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Tune every method for each data set of a board, and compare all on its scenarios.

    Every method has equally many trials, its defaults among them, on runs that are not reported.
    The same command resumes an interrupted board, and then writes the same figures.
    """
    require_writable(out)
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.board import check_board, load_board, run_group
    from fedunlearn.lab.result_store import FolderStore
    from fedunlearn.reporting.leaderboard import Hardware, Leaderboard, board_page

    loaded = load_board(board, quick=quick)
    check_board(loaded)
    count = processes(jobs)
    if estimate:
        from fedunlearn.lab.board_estimate import estimate_seconds

        whole = 0.0
        for work in loaded.work:
            seconds = estimate_seconds(work, count)
            whole += seconds
            click.echo(
                f"{work.loaded.name}: {work.trainings} trainings, {work.removals} removals, about "
                f"{seconds / 3600:.2f} h"
            )
        click.echo(f"about {whole / 3600:.1f} h with {count} jobs at once")
        return
    clock = _Clock(out / "leaderboard.seconds")
    groups, scenarios = [], []
    with terminal_progress() as progress:
        for group in loaded.settings.groups:
            try:
                tuned, found = run_group(
                    loaded,
                    group,
                    store=FolderStore(cache or out / "cache"),
                    processes=count,
                    progress=progress,
                )
            finally:
                clock.store()
            groups.append(tuned)
            scenarios += found
    settings = loaded.settings
    document = Leaderboard(
        fedunlearn=version("fedunlearn"),
        command=f"fedunlearn leaderboard {board}{' --quick' if quick else ''}",
        seeds=settings.seeds,
        tuning_seeds=settings.tuning_seeds,
        trials=settings.trials,
        hardware=Hardware(
            processor=_processor(), cores=len(os.sched_getaffinity(0)), processes=count
        ),
        seconds=clock.seconds,
        groups=tuple(groups),
        scenarios=tuple(scenarios),
    )
    page = board_page(document)
    write_whole(out / "leaderboard.json", document.to_json())
    write_whole(out / "leaderboard.md", page)
    if as_json:
        click.echo(document.to_json(), nl=False)
        return
    click.echo(page)
    for name in ("leaderboard.md", "leaderboard.json"):
        click.echo(out / name)


class _Clock:
    """The wall time of a board, over all runs of the command that worked on it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        try:
            self._before = float(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._before = 0.0

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def store(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, f"{self.seconds:.1f}\n")


def _processor() -> str | None:
    """Return the name of the processor, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip() or None
    except OSError:
        pass
    return platform.processor() or None
