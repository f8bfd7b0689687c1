"""Removals in a user's own Flower app: any strategy, the user's own training, all of the state."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedProx,
    Strategy,
)
from torch import nn

import fedunlearn
import fedunlearn.flower
from fedunlearn import errors
from fedunlearn.flower import RememberingStrategy, unlearning
from tests.inline_grid import InlineGrid
from tests.own_app import EACH, NODES, Net, OwnApp, Rows, initial, trained_by

CONTEXT = Context(1, 0, {}, RecordDict(), {})
GONE = {1: [0, 3, 39], 2: [5]}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def model_of(arrays: ArrayRecord) -> nn.Module:
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    return model.eval()


STRATEGIES: dict[str, Strategy] = {
    "FedAvg": FedAvg(fraction_evaluate=0.0),
    "half of the nodes": FedAvg(fraction_train=0.5, fraction_evaluate=0.0),
    "FedProx": FedProx(fraction_evaluate=0.0, proximal_mu=0.1),
    "FedAdam": FedAdam(fraction_evaluate=0.0, eta=0.02),
    "all must be there": FedAvg(
        fraction_evaluate=0.0, min_available_nodes=NODES, min_train_nodes=NODES
    ),
    "privacy": DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_evaluate=0.0), 0.01, 5.0, NODES
    ),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("method", ["auto", "cubic-newton", "fine-tune"])
def test_a_node_leaves_under_any_strategy(name: str, method: str) -> None:
    app = OwnApp()
    grid = InlineGrid(app.app, NODES)
    result, strategy = trained_by(grid, STRATEGIES[name], rounds=3)
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays, strategy=strategy) as removal:
        arrays = removal.forget(nodes=[2], method=method)
    assert list(arrays) == list(result.arrays)
    assert all(arrays[key].shape == result.arrays[key].shape for key in arrays)
    assert all(torch.isfinite(t).all() for t in arrays.to_torch_state_dict().values())
    found = removal.result
    assert found.forget == "node 2" and found.removed == {"2": EACH}
    asked = set().union(*strategy.participants.values())
    assert all(kept for name, kept in found.kept.items() if int(name) + 1 in asked)
    assert found.before.forget is not None and found.before.forget.examples == EACH
    assert found.after.retain is not None and found.after.retain.examples == 3 * EACH
    assert found.after.held_out is not None and found.after.held_out.examples == 3 * EACH


REQUESTS: dict[str, dict[str, Any]] = {
    "node": {"nodes": [2]},
    "records": {"records": GONE},
    "class": {"classes": [1]},
    "class of a node": {"classes": [1], "on": [3]},
}


def gone_by(request: dict[str, Any], node: int) -> set[int]:
    if "nodes" in request:
        return set(range(EACH)) if node in request["nodes"] else set()
    if "records" in request:
        return set(request["records"].get(node, ()))
    if node not in request.get("on", range(NODES)):
        return set()
    (label,) = request["classes"]
    return {place for place, one in enumerate(Rows(node).targets.tolist()) if one == label}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("method", ["auto", "cubic-newton", "retrain"])
def test_nothing_that_was_removed_is_in_a_later_batch(name: str, method: str) -> None:
    app, request = OwnApp(), REQUESTS[name]
    grid = InlineGrid(app.app, NODES)
    result, strategy = trained_by(grid, FedAvg(), rounds=3)
    assert {node: set(read) for node, read in app.trained_on.items()}[1] == set(range(EACH))
    app.trained_on.clear()
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays, strategy=strategy) as removal:
        arrays = removal.forget(**request, method=method, recovery_rounds=1)
    during = {node: set(read) for node, read in app.trained_on.items()}
    app.trained_on.clear()
    app.evaluated_on.clear()
    FedAvg(min_train_nodes=1, min_available_nodes=1).start(grid, arrays, num_rounds=10)
    for batches in (during, app.trained_on, app.evaluated_on):
        assert batches
        for node, read in batches.items():
            gone = gone_by(request, node)
            assert not gone & set(read)
            assert len(set(range(EACH)) - gone - set(read)) <= 8  # drop_last leaves some out


def test_retraining_is_the_apps_own_training_without_what_left() -> None:
    app = OwnApp()
    grid = InlineGrid(app.app, NODES)
    result, strategy = trained_by(grid, rounds=4)
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays, strategy=strategy) as removal:
        arrays = removal.forget(nodes=[3], method="retrain")
    assert removal.result.claim == "EXACT_RETRAIN"

    other = OwnApp()
    alone, _ = trained_by(InlineGrid(other.app, NODES - 1), rounds=4)
    inputs = torch.cat([Rows(node).inputs for node in range(NODES)])
    with torch.no_grad():
        own, other_own = (model_of(one)(inputs) for one in (arrays, alone.arrays))
    torch.testing.assert_close(own, other_own, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(own, model_of(result.arrays)(inputs), rtol=1e-2, atol=1e-2)


def test_running_statistics_hold_nothing_of_what_left() -> None:
    app = OwnApp()
    grid = InlineGrid(app.app, NODES)
    result, _ = trained_by(grid)
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays, initial=initial()) as removal:
        arrays = removal.forget(nodes=[0], method="cubic-newton")
    assert removal.result.statistics == "estimated again on the retain set"
    model = model_of(arrays)
    inputs = torch.cat([Rows(node).inputs for node in (1, 2, 3)])
    linear, norm = model.layers[0], model.layers[1]  # type: ignore[index]
    with torch.no_grad():
        seen = linear(inputs)
    # Each node's batches give their own means, which add up to that of all; variances within them.
    torch.testing.assert_close(norm.running_mean, seen.mean(0), rtol=1e-4, atol=1e-4)
    assert (norm.running_var <= seen.var(0) * 1.1).all()
    before = model_of(result.arrays).layers[1]  # type: ignore[index]
    assert not torch.allclose(before.running_mean, norm.running_mean)


def test_the_gradient_is_that_of_the_nodes_own_model() -> None:
    app = OwnApp()
    grid = InlineGrid(app.app, NODES)
    result, _ = trained_by(grid)
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays, initial=initial()) as removal:
        federation = removal._own.federation
        objective = federation.objective(fedunlearn.ForgetSet.of_nodes(2), weight_decay=0.0)
        weights = removal._trained.weights
        found = objective.gradients(weights)
    model = model_of(result.arrays)
    rows = Rows(2)
    nn.functional.cross_entropy(model(rows.inputs), rows.targets).backward()
    own = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(found.forget, own, rtol=1e-5, atol=1e-6)
    assert float((found.forget.norm() - own.norm()).abs()) <= 1e-5 * float(own.norm())


def test_one_removal_follows_another() -> None:
    app = OwnApp()
    grid = InlineGrid(app.app, NODES)
    result, strategy = trained_by(grid, rounds=3)
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays, strategy=strategy) as removal:
        removal.forget(nodes=[1], method="cubic-newton")
        assert removal.nodes == ("0", "2", "3")
        with pytest.raises(errors.UnknownNameError, match="node 1 has left"):
            removal.forget(nodes=[1])
        removal.forget(records={2: [0, 1]}, method="cubic-newton")
        assert removal.result.before.retain is not None
        assert removal.result.before.retain.examples == 3 * EACH - 2
        with pytest.raises(errors.ForgetSetError, match="no node has any example"):
            removal.forget(records={2: [1]})
    with (
        unlearning(grid, CONTEXT, model=Net, trained=result.arrays) as again,
        pytest.raises(errors.UnknownNameError, match="node 1"),
    ):
        again.forget(nodes=[1])


def test_tombstones_outlast_the_run_where_nodes_have_a_folder(tmp_path: Path) -> None:
    def folder(context: Context) -> Path:
        return tmp_path / str(context.node_config["partition-id"])

    app = OwnApp(options={"records": folder})
    grid = InlineGrid(app.app, NODES)
    result, _ = trained_by(grid, rounds=2)
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays, initial=initial()) as removal:
        removal.forget(records=GONE, method="cubic-newton")
    assert not any("until this run ends" in remark for remark in removal.result.remarks)
    later = OwnApp(options={"records": folder})
    trained_by(InlineGrid(later.app, NODES), rounds=3)
    for node, places in GONE.items():
        assert not set(places) & set(later.trained_on[node])


def test_what_is_not_known_is_said() -> None:
    app = OwnApp(uses_kept=False)
    grid = InlineGrid(app.app, NODES)
    result, _ = trained_by(grid, rounds=2)
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays) as removal:
        removal.forget(nodes=[0])
        remarks = "\n".join(removal.result.remarks)
        for what in ("initial weights are not known", "no weight decay", "forgetting.kept(context"):
            assert what in remarks
        assert removal.result.settings["linearise-at"] == 1.0
        with pytest.raises(errors.InputError, match="RememberingStrategy"):
            removal.forget(nodes=[1], method="fine-tune")
        with pytest.raises(errors.InputError, match="rounds"):
            removal.forget(nodes=[1], method="retrain")


def test_a_strategy_is_used_as_it_was_before_training() -> None:
    strategy = FedAdam(fraction_evaluate=0.0, eta=0.1)
    remembering = RememberingStrategy(strategy)
    remembering.start(InlineGrid(OwnApp().app, NODES), initial(), num_rounds=3)
    fresh = remembering.anew()
    assert isinstance(fresh, FedAdam) and fresh.m_t is None and strategy.m_t is not None
    assert remembering.rounds == 3 and len(remembering.participants[1]) == NODES
    assert remembering.initial is not None and set(remembering.checkpoints) <= {1, 2, 3}
    with pytest.raises(errors.InputError, match="has trained already"):
        with unlearning(
            InlineGrid(OwnApp().app, NODES),
            CONTEXT,
            model=Net,
            trained=initial(),
            strategy=strategy,  # type: ignore[arg-type]
        ):
            pass


def test_a_legacy_app_takes_a_mod() -> None:
    forgetting = fedunlearn.flower.unlearnable(
        None,
        model=Net,
        loss=nn.functional.cross_entropy,
        data=lambda context: Rows(int(context.node_config["partition-id"])),
    )
    trained_on: dict[int, int] = {}

    class Client(NumPyClient):  # type: ignore[misc]
        def __init__(self, context: Context) -> None:
            self.context = context

        def fit(self, parameters: Any, config: Any) -> Any:
            rows = forgetting.kept(
                self.context, Rows(int(str(self.context.node_config["partition-id"])))
            )
            trained_on[int(str(self.context.node_config["partition-id"]))] = len(rows)
            return parameters, len(rows), {}

    app = ClientApp(lambda context: Client(context).to_client(), mods=[forgetting.mod])
    grid = InlineGrid(app, NODES)
    arrays = ArrayRecord([t.numpy() for t in Net().state_dict().values()])  # a list, as they send
    with unlearning(grid, CONTEXT, model=Net, trained=arrays) as removal:
        removed = removal.forget(records=GONE)
        assert list(removed) == list(arrays)
        removal.forget(nodes=[3])
    for node in range(3):
        parameters = RecordDict(
            {"fitins.parameters": arrays, "fitins.config": ConfigRecord({"a": 1})}
        )
        list(grid.send_and_receive([Message(parameters, node + 1, "train")]))
    assert trained_on == {0: EACH, 1: EACH - 3, 2: EACH - 1}
    (refused,) = grid.send_and_receive([Message(parameters, 4, "train")])
    assert refused.has_error() and 3 not in trained_on


def test_an_app_with_a_client_fn_is_told_of_the_mod() -> None:
    app = ClientApp(lambda context: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(errors.InputError, match=r"mods=\[forgetting.mod\]"):
        fedunlearn.flower.unlearnable(app, model=Net, loss=None, data=lambda context: None)


def test_the_train_config_of_training_is_that_of_recovery() -> None:
    seen: list[ConfigRecord] = []

    class Noting(OwnApp):
        def train(self, message: Any, context: Context) -> Any:
            seen.append(message.content["config"])
            return super().train(message, context)

    grid = InlineGrid(Noting().app, NODES)
    strategy = RememberingStrategy(FedAvg(fraction_evaluate=0.0))
    result = strategy.start(
        grid, initial(), num_rounds=1, train_config=ConfigRecord({"lr": 0.5, "empty": ""})
    )
    seen.clear()
    with unlearning(grid, CONTEXT, model=Net, trained=result.arrays, strategy=strategy) as removal:
        removal.forget(nodes=[0], method=fedunlearn.FineTune(rounds=2))
    assert len(seen) == 2 * 3 and all(one["lr"] == 0.5 and one["empty"] == "" for one in seen)


def test_a_variance_that_is_none_is_refused() -> None:
    state = initial().to_torch_state_dict()
    state["layers.1.running_var"] = state["layers.1.running_var"] - 2.0
    with (
        pytest.raises(errors.InputError, match=r"'layers.1.running_var' holds variances .*FedAdam"),
        unlearning(InlineGrid(OwnApp().app, NODES), CONTEXT, model=Net, trained=ArrayRecord(state)),
    ):
        pass


@pytest.mark.parametrize("name", ["a\x1b[31m", "two\nlines", " ", "x" * 201])
def test_a_node_that_gives_no_name_is_refused(name: str) -> None:
    grid = InlineGrid(OwnApp().app, NODES)
    for context in grid._contexts.values():
        context.node_config["name"] = name
    with (
        pytest.raises(errors.FederationError, match="one printable line") as raised,
        unlearning(grid, CONTEXT, model=Net, trained=initial()),
    ):
        pass
    assert str(raised.value).isprintable()
