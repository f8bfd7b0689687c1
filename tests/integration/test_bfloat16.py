"""Half the bytes, nearly the same removal: digits with bfloat16 both ways beside float32."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import SessionServer
from fedunlearn.flower.simulation import simulate
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.federations import NewFederations
from fedunlearn.lab.measuring import environment_of, measure
from fedunlearn.lab.stages import Replica, retrain, train, unlearn_requests
from fedunlearn.node.node import TaskNode
from fedunlearn.node.session_client import attend
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from tests.federations import InTurn
from tests.tables import ROOT

SETTINGS = (
    "evaluation.oracles=1",
    'unlearning.methods=["cubic-newton"]',
)  # else what the demo runs


@contextmanager
def session(experiment: Experiment, payload: torch.dtype | None) -> Iterator[Federation]:
    nodes = experiment.task.split.nodes
    server, meters = SessionServer(range(len(nodes))), MeterStack()
    threads = []
    for number in range(len(nodes)):
        arguments = (InTurn(TaskNode(experiment.task, number)), server.invite(number))
        options = {"connect_s": 30.0, "payload": payload}
        threads.append(threading.Thread(target=attend, args=arguments, kwargs=options))
        threads[-1].start()
    try:
        assert server.wait(30.0) == ()
        yield Federation(
            examples={n: len(indices) for n, indices in enumerate(nodes)},
            transport=SessionTransport(server, meters, payload=payload),
            trainer=None,  # type: ignore[arg-type]  # nothing is trained here
            meters=meters,
        )
    finally:
        server.close()
        for thread in threads:
            thread.join(30.0)


def test_bfloat16_takes_half_the_bytes_and_forgets_as_well() -> None:
    settings = parse_scenario({}, SETTINGS, "bfloat16")
    experiment = Experiment.prepare(LoadedScenario("bfloat16", ROOT, settings))
    seed = experiment.scenario.training.seed
    trained, oracle = simulate(
        experiment.task,
        len(experiment.task.split.nodes),
        lambda federation: (
            train(experiment, federation, (), seed),
            retrain(experiment, federation, 0, seed, "retraining"),
        ),
    )
    removals = {}
    for name, payload in (("float32", None), ("bfloat16", torch.bfloat16)):
        with session(experiment, payload) as federation:
            (removals[name],) = unlearn_requests(
                experiment, federation, trained, "cubic-newton", None
            )
    whole, half = (removals[name].cost for name in ("float32", "bfloat16"))
    assert whole.rounds == half.rounds
    for direction in ("bytes_up", "bytes_down"):
        assert 0.49 < getattr(half, direction) / getattr(whole, direction) < 0.55
    environment = environment_of(NewFederations())
    forget_js = {}
    for name, made in removals.items():
        replica = Replica(trained.weights, {"cubic-newton": (made,)})
        (result,) = measure(experiment, [replica], [[oracle]], environment).results.requests
        forget_js[name] = result.methods["cubic-newton"].forget_js or 0.0
    # Else there is nothing to compare.
    assert result.trained.forget_js is not None
    assert forget_js["float32"] < 0.7 * result.trained.forget_js
    difference = abs(forget_js["bfloat16"] - forget_js["float32"])
    assert difference <= 0.05 * forget_js["float32"], forget_js
