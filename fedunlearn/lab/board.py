"""The leaderboard: methods over many scenarios, tuned for each data set with equally many trials.

A board is a TOML file. Its scenarios are in groups, one a data set. In each group every method is
tuned on the scenario that says so, on runs that are not reported, and keeps these settings in all
scenarios of the group. Jobs are stored, so that an interrupted board is resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from fedunlearn.errors import ScenarioError
from fedunlearn.lab.comparison import compare_scenarios, with_seed
from fedunlearn.lab.experiment import prepared
from fedunlearn.lab.result_store import FolderStore
from fedunlearn.lab.tuning import tune_methods
from fedunlearn.progress import Progress
from fedunlearn.reporting.leaderboard import BoardScenario, TunedGroup
from fedunlearn.reporting.seed_summary import summarise
from fedunlearn.reporting.tuning_results import Trial
from fedunlearn.scenario.loading import LoadedScenario, first_complaint, load_scenario
from fedunlearn.settings import Settings
from fedunlearn.toml import read_toml

FIRST_TUNING_RUN = 1000
QUICK_SEEDS, QUICK_TRIALS = 2, 2


class BoardEntry(Settings):
    """A scenario of the board.

    Attributes:
        name: Name in tables.
        group: Name of its data set; methods are tuned once for each.
        base: The scenario file, beside the board; its methods and their settings are not used.
        changes: Changes of its settings, ``section.key=value``.
        without: Methods of the board that do not run here.
        tuned: Whether the methods of the group are tuned on this scenario.
        quick: Whether it belongs to the small board of ``--quick``.
    """

    name: Annotated[str, Field(min_length=1)]
    group: Annotated[str, Field(min_length=1)]
    base: Path = Field(strict=False)
    changes: tuple[str, ...] = Field((), strict=False, alias="set")
    without: tuple[str, ...] = Field((), strict=False)
    tuned: bool = False
    quick: bool = False


class BoardSettings(Settings):
    """The settings of a board.

    Attributes:
        seeds: Number of reported runs of each scenario, numbered from 0.
        trials: Number of points of its grid that each method tries.
        tuning_seeds: Number of runs of a trial, numbered from 1000, so that none is reported.
        methods: The methods. The first, with its defaults in the search and with what it found
            afterwards, sets the client compute of those that adapt to it.
        scenarios: The scenarios.
    """

    seeds: Annotated[int, Field(gt=0, le=FIRST_TUNING_RUN)] = 5
    trials: Annotated[int, Field(gt=0)] = 8
    tuning_seeds: Annotated[int, Field(gt=0)] = 2
    methods: tuple[str, ...] = Field(strict=False, min_length=1)
    scenarios: tuple[BoardEntry, ...] = Field(strict=False, min_length=1)

    @model_validator(mode="after")
    def _one_to_tune_on(self) -> BoardSettings:
        for entry in self.scenarios:
            if sum(other.name == entry.name for other in self.scenarios) > 1:
                raise ValueError(
                    f"scenarios: two are named {entry.name!r}; give each a name of its own"
                )
            if unknown := [name for name in entry.without if name not in self.methods]:
                raise ValueError(
                    f"scenarios: {entry.name} leaves out {unknown[0]!r}, which is not in methods"
                )
            if not self.methods_of(entry):
                raise ValueError(f"scenarios: {entry.name} leaves out all methods; keep one")
        for group in self.groups:
            tuned = [e.name for e in self.scenarios if e.group == group and e.tuned]
            if len(tuned) != 1:
                raise ValueError(
                    f"scenarios: group {group!r} has {len(tuned)} with tuned = true; set it for one"
                )
        return self

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in the order of the file."""
        return tuple(dict.fromkeys(entry.group for entry in self.scenarios))

    def methods_of(self, entry: BoardEntry) -> tuple[str, ...]:
        """Return the methods that run on a scenario."""
        return tuple(name for name in self.methods if name not in entry.without)

    def quick(self) -> BoardSettings:
        """Return the small board: its quick scenarios, two seeds and two trials.

        Raises:
            ScenarioError: No scenario is quick, or those of a group leave out the tuned one.
        """
        chosen = [entry for entry in self.scenarios if entry.quick]
        if not chosen:
            raise ScenarioError(
                "--quick: no scenario of the board has quick = true; set it for one"
            )
        return _checked(
            {
                "seeds": min(self.seeds, QUICK_SEEDS),
                "trials": min(self.trials, QUICK_TRIALS),
                "tuning-seeds": 1,
                "methods": self.methods,
                "scenarios": [entry.model_dump(by_alias=True) for entry in chosen],
            },
            "--quick",
        )


@dataclass(frozen=True)
class Board:
    """A board whose scenarios were read.

    Attributes:
        settings: Its settings.
        scenarios: The scenarios with the methods of the board, by name.
    """

    settings: BoardSettings
    scenarios: dict[str, LoadedScenario]

    @property
    def work(self) -> list[ScenarioWork]:
        """The work on each scenario, tuning included."""
        settings, found = self.settings, []
        for entry in settings.scenarios:
            loaded = self.scenarios[entry.name]
            requests = len(prepared(loaded).requests)
            tuning = settings.tuning_seeds if entry.tuned else 0
            methods = len(settings.methods_of(entry))
            found.append(
                ScenarioWork(
                    loaded=loaded,
                    trainings=(settings.seeds + tuning)
                    * (1 + loaded.settings.evaluation.oracles * requests),
                    removals=requests
                    * (settings.seeds * methods + tuning * (1 + methods * settings.trials)),
                )
            )
        return found


@dataclass(frozen=True)
class ScenarioWork:
    """The work on a scenario of a board.

    Attributes:
        loaded: The scenario.
        trainings: Number of models that are trained or retrained.
        removals: Number of removals, at most; a method without a grid has fewer trials.
    """

    loaded: LoadedScenario
    trainings: int
    removals: int


def load_board(path: Path, *, quick: bool) -> Board:
    """Read a board and its scenarios.

    Args:
        path: A TOML file.
        quick: Whether only the small board is wanted.

    Returns:
        The board.

    Raises:
        ScenarioError: The board or a scenario cannot be used.
    """
    try:
        table = read_toml(path, ScenarioError, "board")
    except FileNotFoundError:
        raise ScenarioError(f"board {path} not found; give the path of a TOML file") from None
    settings = _checked(table, str(path))
    if quick:
        settings = settings.quick()
    scenarios = {}
    for entry in settings.scenarios:
        loaded = load_scenario(path.parent / entry.base, entry.changes)
        unlearning = loaded.settings.unlearning.model_copy(
            update={
                "methods": settings.methods_of(entry),
                "of_method": {},
                "recovery_rounds": 0,
            }
        )
        changed = loaded.settings.model_copy(update={"unlearning": unlearning})
        scenarios[entry.name] = replace(loaded, name=entry.name, settings=changed)
    return Board(settings, scenarios)


def run_group(
    board: Board, group: str, *, store: FolderStore, processes: int, progress: Progress
) -> tuple[TunedGroup, list[BoardScenario]]:
    """Tune the methods on a group's scenario, then run all scenarios of the group.

    Args:
        board: The board.
        group: Name of the group.
        store: The store of the jobs' results; a later run finds them there.
        processes: Number of jobs that run at once.
        progress: Receives one step for each job.

    Returns:
        The trials, and the results of each scenario.

    Raises:
        InputError: A scenario cannot be run.
        FederationError: A job failed; the results of those before it are stored.
    """
    settings = board.settings
    entries = [entry for entry in settings.scenarios if entry.group == group]
    (tuned,) = [entry.name for entry in entries if entry.tuned]
    tried = tune_methods(
        board.scenarios[tuned],
        range(FIRST_TUNING_RUN, FIRST_TUNING_RUN + settings.tuning_seeds),
        trials=settings.trials,
        store=store,
        processes=processes,
        progress=progress,
    )
    tables = {trial.method: best(trial.method, tried) for trial in tried}
    scenarios = [_with_settings(board.scenarios[entry.name], tables) for entry in entries]
    runs = compare_scenarios(
        scenarios,
        range(settings.seeds),
        store=store,
        processes=processes,
        progress=progress,
    )
    found = [
        BoardScenario(group=group, summary=summarise(one.name, results))
        for one, results in zip(scenarios, runs, strict=True)
    ]
    return TunedGroup(group=group, scenario=tuned, trials=tuple(tried)), found


def check_board(board: Board) -> None:
    """Prepare every scenario of a board, so that one that cannot run is found before any work.

    Raises:
        InputError: A scenario cannot be run.
    """
    for loaded in board.scenarios.values():
        prepared(with_seed(loaded, 0))


def best(method: str, trials: Sequence[Trial]) -> dict[str, object]:
    """Return the settings of a method's best trial, in the order of ``tune_methods``."""
    (first, *_) = [trial for trial in trials if trial.method == method]
    return {key: value for key, value in first.settings.items() if value is not None}


def _with_settings(loaded: LoadedScenario, tables: dict[str, dict[str, object]]) -> LoadedScenario:
    chosen = {name: tables.get(name, {}) for name in loaded.settings.unlearning.methods}
    unlearning = loaded.settings.unlearning.model_copy(update={"of_method": chosen})
    settings = loaded.settings.model_copy(update={"unlearning": unlearning})
    return replace(loaded, settings=settings)


def _checked(table: dict[str, object], source: str) -> BoardSettings:
    try:
        return BoardSettings.model_validate(table)
    except ValidationError as error:
        raise ScenarioError(f"{source}: {first_complaint(error, BoardSettings)}") from None
