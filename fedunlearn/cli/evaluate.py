"""``fedunlearn evaluate``: models that other code unlearned, against a scenario's oracles."""

from __future__ import annotations

from pathlib import Path

import click

from fedunlearn.cli.files import require_writable
from fedunlearn.cli.lab_options import (
    cache_option,
    jobs_option,
    json_option,
    out_option,
    overrides_option,
    processes,
)
from fedunlearn.cli.scenarios import write_run
from fedunlearn.errors import InputError


@click.command()
@click.argument(
    "models",
    type=click.Path(path_type=Path),
    metavar="MODEL.safetensors...",
    nargs=-1,
    required=True,
)
@click.argument("scenario", type=click.Path(path_type=Path), metavar="SCENARIO.toml")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="Name of a model in tables, one for each model in their order.  [default: file names]",
)
@click.option(
    "--request",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Number of the request, counted from 1, that the models have removed with all before it.  "
    "[default: the last]",
)
@click.option(
    "--with-methods",
    is_flag=True,
    help="Run the scenario's own methods too, and show them beside the models.",
)
@overrides_option
@jobs_option
@cache_option
@out_option("evaluation", "results.json, report.html and the cache")
@json_option("results.json")
def evaluate(
    models: tuple[Path, ...],
    scenario: Path,
    names: tuple[str, ...],
    request: int | None,
    with_methods: bool,
    overrides: tuple[str, ...],
    jobs: int | None,
    cache: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Compare models that other code unlearned with the retrained ones.

    A model is the state_dict of the scenario's network, saved by safetensors. 'fedunlearn run
    SCENARIO.toml --save-models DIR' writes the models and the data from which to start. A file that
    a comparison with the same --cache has trained is used again.
    """
    from fedunlearn.scenario.loading import load_scenario

    loaded = load_scenario(scenario, overrides)
    named = _named(models, names)
    require_writable(out)
    from fedunlearn.cli.progress import terminal_progress
    from fedunlearn.lab.foreign_evaluation import evaluate_models
    from fedunlearn.lab.result_store import FolderStore

    with terminal_progress() as progress:
        measured = evaluate_models(
            named,
            loaded,
            request=request,
            with_methods=with_methods,
            store=FolderStore(cache or out / "cache"),
            processes=processes(jobs),
            progress=progress,
        )
    write_run(measured, out, {}, as_json)


def _named(models: tuple[Path, ...], names: tuple[str, ...]) -> dict[str, Path]:
    """Return the files by the names under which they are shown."""
    if names and len(names) != len(models):
        raise InputError(
            f"--name: {len(names)} names for {len(models)} models; give one for each, or none"
        )
    chosen = names or tuple(path.stem for path in models)
    for name in chosen:
        if chosen.count(name) > 1:
            raise InputError(
                f"two models are named {name!r}; give each a name of its own with --name"
            )
        if not name.strip() or not name.isprintable():
            raise InputError(f"--name {name!r}: is not printable text; give another name")
    return dict(zip(chosen, models, strict=True))
