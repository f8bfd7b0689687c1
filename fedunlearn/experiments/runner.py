"""One scenario, start to end: train, forget, retrain, compare."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from fedunlearn.data.scenario_task import ScenarioTask
from fedunlearn.data.sources import locate
from fedunlearn.evaluation.evidence import Evidence, gather_evidence
from fedunlearn.evaluation.metrics import Parts, Predictions, compare, floor, js_divergence
from fedunlearn.experiments.forgetting import resolve_forget_set, split_parts
from fedunlearn.federation.accounting import Cost
from fedunlearn.federation.federation import Federation, TrainedModel, TrainingPlan
from fedunlearn.federation.forget import ForgetSet, Kind
from fedunlearn.flower.simulation import TransportName, simulate
from fedunlearn.parameters import initial_weights, load
from fedunlearn.progress import Progress
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.scenario.sections import Scenario
from fedunlearn.unlearning.method import Unlearned, UnlearningMethod, Watch
from fedunlearn.unlearning.registry import make_method
from fedunlearn.vectors import norm

TRAINED, RETRAINED = "trained", "retrained"
CHUNK = 2048

Path = tuple[tuple[int, Tensor], ...]


@dataclass(frozen=True)
class Outcome:
    """What a scenario gave.

    Attributes:
        results: As in results.json.
        evidence: Predictions for the report, one entry a request.
    """

    results: dict[str, Any]
    evidence: tuple[Evidence, ...]


def run_scenario(
    loaded: LoadedScenario, *, transport: TransportName, progress: Progress
) -> Outcome:
    """Run a scenario.

    Everything that can be checked is checked before the first round.

    Args:
        loaded: The scenario.
        transport: ``inline`` or ``flower``.
        progress: Hears of training, rounds and oracles.

    Returns:
        Results and evidence.

    Raises:
        InputError: The scenario cannot be run.
        FederationError: A round could not be completed.
    """
    scenario = loaded.settings
    data = scenario.data
    if data.path is not None:
        data = data.model_copy(update={"path": locate(data.path, loaded.folder).absolute()})
    task = ScenarioTask(data, scenario.model)
    task.model()
    scenario = scenario.with_nodes(len(task.split.nodes))
    forget = resolve_forget_set(scenario.forget, task.split)
    tables = scenario.unlearning.of_method
    known = {
        name: make_method(name, tables.get(name, {}))
        for name in (*scenario.unlearning.methods, *tables)
    }
    methods = {name: known[name] for name in scenario.unlearning.methods}
    experiment = _Experiment(scenario, task, forget, methods)
    request, evidence = simulate(
        task, len(task.split.nodes), experiment.run, transport=transport, progress=progress
    )
    results = {
        "fedunlearn": version("fedunlearn"),
        "name": loaded.name,
        "scenario": _as_run(scenario, methods),
        "environment": _environment(transport),
        "requests": [request],
    }
    return Outcome(results, (evidence,))


@dataclass(frozen=True)
class _Run:
    unlearned: Unlearned
    path: Path
    recovered: Path
    cost: Cost

    @property
    def weights(self) -> Tensor:
        return self.recovered[-1][1] if self.recovered else self.unlearned.weights


class _Experiment:
    """The work inside the federation."""

    def __init__(
        self,
        scenario: Scenario,
        task: ScenarioTask,
        forget: ForgetSet,
        methods: Mapping[str, UnlearningMethod[Any]],
    ) -> None:
        self.scenario = scenario
        self.task = task
        self.forget = forget
        self.methods = methods
        self.parts: Parts = split_parts(forget, task.split)
        self.retained = len(self.parts.retain[0])
        self._workspace = task.model()

    def run(self, federation: Federation) -> tuple[dict[str, Any], Evidence]:
        """Train, unlearn by every method, retrain, and compare."""
        settings = self.scenario.training
        trained = federation.fit(initial_weights(self.task.model, settings.seed), settings)
        wanted = [item for method in self.methods.values() for item in method.to_record()]
        trained = federation.record(trained, wanted)
        runs = self._unlearn(federation, trained)
        oracles, retraining = self._retrain(federation)
        return self._compare(trained, runs, oracles, retraining)

    def _unlearn(self, federation: Federation, trained: TrainedModel) -> dict[str, _Run]:
        """Run every method; the first sets the client compute of those that adapt to it."""
        runs: dict[str, _Run] = {}
        budget: float | None = None
        for name, method in self.methods.items():
            if budget is not None:
                method = method.at_compute(budget, trained.settings.local_epochs)
            path: list[tuple[int, Tensor]] = [(0, trained.weights)]
            with federation.measure() as meter:
                unlearned = method.unlearn(
                    trained,
                    federation,
                    self.forget,
                    watch=_into(path),
                )
                if budget is None:
                    budget = meter.cost(self.retained).gradient_equivalents
                spent = path[-1][0]
                recovered = self._recover(federation, trained, name, unlearned, spent)
                cost = meter.cost(self.retained)
            runs[name] = _Run(unlearned, tuple(path), recovered, cost)
        return runs

    def _recover(
        self,
        federation: Federation,
        trained: TrainedModel,
        name: str,
        unlearned: Unlearned,
        spent: int,
    ) -> Path:
        """Train on for a few rounds without what left; an empty path where none are asked for."""
        rounds = self.scenario.unlearning.recovery_rounds
        path: list[tuple[int, Tensor]] = []
        if rounds:
            first = trained.settings.rounds + 1
            plan = TrainingPlan(
                trained.settings, rounds, first, trained.settings.seed, without=self.forget
            )
            federation.train(
                unlearned.weights,
                plan,
                label=f"{name}: recovery",
                on_round=lambda number, weights: path.append((spent + number - first + 1, weights)),
            )
        return tuple(path)

    def _retrain(self, federation: Federation) -> tuple[list[Tensor], Cost]:
        """Train the oracles; the first shares initialisation and order with training."""
        settings = self.scenario.training
        oracles: list[Tensor] = []
        costs: list[Cost] = []
        count = self.scenario.evaluation.oracles
        for seed in range(settings.seed, settings.seed + count):
            with federation.measure() as meter:
                oracle = federation.fit(
                    initial_weights(self.task.model, seed),
                    settings,
                    seed=seed,
                    without=self.forget,
                    label=f"retraining oracle {len(oracles) + 1} of {count}",
                )
                costs.append(meter.cost(self.retained))
            oracles.append(oracle.weights)
        return oracles, costs[0]

    def _compare(
        self,
        trained: TrainedModel,
        runs: dict[str, _Run],
        oracles: list[Tensor],
        retraining: Cost,
    ) -> tuple[dict[str, Any], Evidence]:
        oracle_predictions = [self._predict(weights) for weights in oracles]
        oracle = oracle_predictions[0]

        def measures(weights: Tensor) -> dict[str, float]:
            return compare(self._predict(weights), oracle, self.parts) | {
                "update_norm": _distance(weights, trained.weights),
                "weight_distance": _distance(weights, oracles[0]),
            }

        def forget_js(weights: Tensor) -> float:
            outputs = self._outputs(weights, self.parts.forget[0]).double().softmax(1)
            return js_divergence(outputs, oracle.of_part["forget"])

        methods: dict[str, Any] = {}
        for name, run in runs.items():
            entry: dict[str, Any] = measures(run.weights) | asdict(run.cost)
            entry |= {"status": run.unlearned.status, "claim": run.unlearned.claim.value}
            spent = [trained.recorded[item].spent for item in self.methods[name].to_record()]
            if spent:
                entry["recording"] = asdict(sum(spent[1:], spent[0]).cost(self.retained))
            if run.recovered:
                entry["before_recovery"] = measures(run.unlearned.weights)
            entry["curve"] = [
                {"rounds": rounds, "forget_js": forget_js(weights)}
                for rounds, weights in (*run.path, *run.recovered)
            ]
            entry["details"] = dict(run.unlearned.details)
            methods[name] = entry

        shown = {
            TRAINED: self._predict(trained.weights),
            **{name: self._predict(run.weights) for name, run in runs.items()},
            RETRAINED: oracle,
        }
        result = {
            "forget": self._describe(),
            "floor": floor(oracle_predictions),
            TRAINED: measures(trained.weights) | {"gradient_norm": self._gradient_norm(trained)},
            RETRAINED: measures(oracles[0]) | asdict(retraining),
            "methods": methods,
        }
        return result, gather_evidence(shown, self.parts)

    def _describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"kind": self.forget.kind.value}
        match self.forget.kind:
            case Kind.SAMPLES:
                described |= {"fraction": self.forget.fraction, "seed": self.forget.seed}
            case Kind.CLASS:
                described["class"] = self.forget.label
        if self.forget.named:
            described["nodes"] = sorted(self.forget.named)
        return described | {
            "description": str(self.forget),
            "forgotten_examples": len(self.parts.forget[0]),
            "retained_examples": self.retained,
        }

    def _predict(self, weights: Tensor) -> Predictions:
        return Predictions.at(lambda inputs: self._outputs(weights, inputs), self.parts)

    def _outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        load(self._workspace, weights)
        with torch.no_grad():
            return torch.cat([self._workspace(chunk) for chunk in inputs.split(CHUNK)])

    def _gradient_norm(self, trained: TrainedModel) -> float:
        """The norm of grad F at w^ over all examples: how far training was from converged."""
        examples = tuple(
            torch.cat([forget, retain])
            for forget, retain in zip(self.parts.forget, self.parts.retain, strict=True)
        )
        risk = EmpiricalRisk(self._workspace, self.task.loss, (examples[0], examples[1]))
        mean = risk.gradient(trained.weights) / len(risk)
        return norm(mean + trained.settings.weight_decay * trained.weights)


def _into(path: list[tuple[int, Tensor]]) -> Watch:
    return lambda rounds, weights: path.append((rounds, weights))


def _distance(left: Tensor, right: Tensor) -> float:
    return norm(left.double() - right.double())


def _as_run(scenario: Scenario, methods: Mapping[str, UnlearningMethod[Any]]) -> dict[str, Any]:
    """Return the scenario with every setting of every method that ran, defaults included."""
    options: dict[str, Any] = {"mode": "json", "by_alias": True, "exclude_none": True}
    tables = scenario.model_dump(**options)
    del tables["unlearning"]["of-method"]
    for name, method in methods.items():
        other = {} if name == method.name else {"method": method.name}
        tables["unlearning"][name] = other | method.settings.model_dump(**options)
    return tables


def _environment(transport: TransportName) -> dict[str, Any]:
    return {
        "transport": transport,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "flwr": version("flwr"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
