"""The options that the commands of the lab share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change one setting; VALUE is a TOML value or a bare word, which is a string. Repeatable.",
)
seeds_option = click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of runs of each scenario, each with its own data, forget set and models.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=None,
    metavar="J",
    help="Number of processes, one thread each.  [default: number of cores]",
)
cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Folder of stored models, so that no job is done twice.  [default: OUT/cache]",
)


def first_option(default: int, text: str) -> Callable[[F], F]:
    """Return the option for the number of the first run, with a help text."""
    return click.option(
        "--first",
        type=click.IntRange(min=0),
        default=default,
        show_default=True,
        metavar="S",
        help=text,
    )


def out_option(default: str, files: str) -> Callable[[F], F]:
    """Return the option for the folder of some files."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path(default),
        show_default=True,
        metavar="DIR",
        help=f"Folder for {files}.",
    )


def json_option(file: str) -> Callable[[F], F]:
    """Return the option that prints a file instead of tables."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {file} instead of tables.")


def processes(jobs: int | None) -> int:
    """Return the number of processes to use."""
    return jobs or len(os.sched_getaffinity(0))
