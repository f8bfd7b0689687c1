"""``fedunlearn tune``: a search over the settings of methods, the same trials for each."""

from __future__ import annotations

from pathlib import Path

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.cli.lab_options import (
    cache_option,
    first_option,
    jobs_option,
    json_option,
    out_option,
    overrides_option,
    processes,
    seeds_option,
)
from fedunlearn.files import write_whole


@click.command()
@click.argument("scenario", type=click.Path(path_type=Path), metavar="SCENARIO.toml")
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="K",
    help="Number of points of its grid that each method may try.",
)
@seeds_option
@first_option(1000, "Number of the first run; choose runs that no comparison reports.")
@overrides_option
@jobs_option
@cache_option
@out_option("tuning", "tuning.json and the cache")
@json_option("tuning.json")
def tune(
    scenario: Path,
    trials: int,
    seeds: int,
    first: int,
    overrides: tuple[str, ...],
    jobs: int | None,
    cache: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Search the settings of every method of a scenario, and print the best as TOML.

    The scenario's first method, with its settings there, sets the client compute of those that
    adapt to it. The score is forget JS plus retain JS, mean over seeds and requests.
    """
    require_writable(out)
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.result_store import FolderStore
    from fedunlearn.lab.tuning import tune_methods
    from fedunlearn.reporting.pages import toml
    from fedunlearn.reporting.tuning_results import Tuning
    from fedunlearn.scenario.loading import load_scenario

    with terminal_progress() as progress:
        tried = tune_methods(
            load_scenario(scenario, overrides),
            range(first, first + seeds),
            trials=trials,
            store=FolderStore(cache or out / "cache"),
            processes=processes(jobs),
            progress=progress,
        )
    document = Tuning(trials=tuple(tried)).to_json()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "tuning.json", document)
    if as_json:
        click.echo(document, nl=False)
        return
    for name in dict.fromkeys(trial.method for trial in tried):
        best, *others = [trial for trial in tried if trial.method == name]
        score = "unknown" if best.score is None else f"{best.score:.4f}"
        click.echo(f"[unlearning.{name}]  # score {score}, best of {1 + len(others)}")
        for key, value in best.settings.items():
            if value is None:
                click.echo(f"# {key} is left out")
            else:
                click.echo(f"{key} = {toml(value)}")
    click.echo(f"\n{out / 'tuning.json'}")
