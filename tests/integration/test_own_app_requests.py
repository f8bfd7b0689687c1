"""What a removal in a user's app may be asked for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import ArrayRecord, Context
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, Subset

from fedunlearn.errors import FedunlearnError
from fedunlearn.flower import unlearnable, unlearning
from tests.inline_grid import InlineGrid
from tests.integration.test_own_app_mutants import (
    CONTEXT,
    EXAMPLES,
    NODES,
    Net,
    client,
    complaint,
    load_data,
    remove,
)


def test_the_result_instead_of_its_arrays() -> None:
    grid = InlineGrid(client(), NODES)
    result = FedAvg(fraction_evaluate=0.0).start(
        grid, ArrayRecord(Net().state_dict()), num_rounds=1
    )
    with (
        pytest.raises(FedunlearnError, match=r"give an ArrayRecord, as result\.arrays"),
        unlearning(grid, CONTEXT, model=Net, trained=result),  # type: ignore[arg-type]
    ):
        pass


def test_a_strategy_that_was_not_wrapped() -> None:
    grid = InlineGrid(client(), NODES)
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord(Net().state_dict()), num_rounds=1)
    with (
        pytest.raises(FedunlearnError, match=r"RememberingStrategy\(strategy\)"),
        unlearning(
            grid,
            CONTEXT,
            model=Net,
            trained=result.arrays,
            strategy=strategy,  # type: ignore[arg-type]
        ),
    ):
        pass


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"nodes": [7]}, "7"),
        ({"nodes": []}, "names none"),
        ({"nodes": [0, 1, 2]}, "something must stay"),
        ({"classes": [9]}, "no node has any example"),
        ({"classes": ["cat"]}, "classes are whole numbers"),
        ({"records": {1: [EXAMPLES]}}, f"whole numbers from 0 to {EXAMPLES - 1}"),
        ({"records": [0, 3]}, "records={2: [0, 17]}"),
        ({"nodes": [1], "classes": [0]}, "give one of"),
        ({"nodes": [1], "method": "newton"}, "newton"),
        ({"nodes": [1], "recovery_rounds": -1}, "0 or more"),
    ],
    ids=str,
)
def test_requests_that_cannot_be(request_: dict[str, Any], words: str) -> None:
    assert words in complaint(app=client(), **request_)


def test_the_places_of_records_outlast_a_removal() -> None:
    """A second removal of a run names places of all examples, as the first did."""
    grid = InlineGrid(client(), NODES)
    arrays = ArrayRecord(Net().state_dict())
    for places in ([0, 3], [EXAMPLES - 1]):
        with unlearning(grid, CONTEXT, model=Net, trained=arrays) as removal:
            arrays = removal.forget(records={1: places})
            assert removal.result.removed["1"] == len(places)


def test_subsets_are_data_like_any_other() -> None:
    def subset(context: Context) -> Subset[Any]:
        return Subset(load_data(context)[0], range(0, EXAMPLES, 2))

    def of_subset(forgetting: Any, context: Context) -> Dataset[Any]:
        found: Dataset[Any] = forgetting.kept(context, subset(context))
        return found

    assert remove(client(data=subset, uses=of_subset)).removed == {"1": 2}


def test_a_legacy_app_whose_workflow_trained() -> None:
    """A client_fn with the mod; the workflow's arrays have no names and state no shape."""
    from flwr.client import NumPyClient
    from flwr.common import ndarrays_to_parameters
    from flwr.server import LegacyContext, ServerConfig
    from flwr.server.strategy import FedAvg as LegacyFedAvg
    from flwr.server.workflow import DefaultWorkflow

    forgetting = unlearnable(None, model=Net, loss=cross_entropy, data=load_data)

    class Client(NumPyClient):  # type: ignore[misc]
        def __init__(self, size: int) -> None:
            self.size = size

        def fit(self, parameters: Any, config: Any) -> tuple[Any, int, dict[str, Any]]:
            return [one * 1.01 for one in parameters], self.size, {}

    def client_fn(context: Context) -> Any:
        return Client(len(forgetting.kept(context, load_data(context)[0]))).to_client()

    grid = InlineGrid(ClientApp(client_fn=client_fn, mods=[forgetting.mod]), NODES)
    arrays = [one.numpy() for one in Net().state_dict().values()]
    strategy = LegacyFedAvg(
        fraction_evaluate=0.0, initial_parameters=ndarrays_to_parameters(arrays)
    )
    context = LegacyContext(CONTEXT, config=ServerConfig(num_rounds=1), strategy=strategy)
    DefaultWorkflow()(grid, context)
    trained = context.state.array_records["parameters"]
    with unlearning(grid, context, model=Net, trained=trained) as removal:
        removal.forget(nodes=[2])
        assert removal.result.removed == {"2": EXAMPLES}
        assert all(removal.result.kept.values())
