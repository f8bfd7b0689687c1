"""Mistakes in the three lines a side: each ends in one clear sentence, or works."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fedunlearn.errors import FedunlearnError
from fedunlearn.flower import RememberingStrategy, unlearnable, unlearning
from fedunlearn.flower.removal_result import RemovalResult
from tests.inline_grid import InlineGrid

NODES, EXAMPLES, HELD_OUT = 3, 24, 8
CONTEXT = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            OrderedDict(
                hidden=nn.Linear(4, 6), bend=nn.Tanh(), drop=nn.Dropout(0.5), head=nn.Linear(6, 3)
            )
        )


class Wider(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(OrderedDict(hidden=nn.Linear(4, 9), bend=nn.Tanh(), head=nn.Linear(9, 3)))


class OtherNames(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(OrderedDict(first=nn.Linear(4, 6), bend=nn.Tanh(), last=nn.Linear(6, 3)))


class OtherOrder(nn.Module):
    """The layers of Net, made in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Linear(4, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.drop(torch.tanh(self.hidden(inputs))))
        return outputs


def examples(node: int) -> tuple[TensorDataset, TensorDataset]:
    generator = torch.Generator().manual_seed(node)
    inputs = torch.randn(EXAMPLES + HELD_OUT, 4, generator=generator)
    labels = (inputs @ torch.tensor([1.0, -1.0, 0.5, 0.0]) > 0).long() + (inputs[:, 3] > 1).long()
    return (
        TensorDataset(inputs[:EXAMPLES], labels[:EXAMPLES]),
        TensorDataset(inputs[EXAMPLES:], labels[EXAMPLES:]),
    )


def load_data(context: Context) -> tuple[TensorDataset, TensorDataset]:
    return examples(int(context.node_config["partition-id"]))


Kept = Callable[[Any, Context], Dataset[Any]]


def kept(forgetting: Any, context: Context) -> Dataset[Any]:
    found: Dataset[Any] = forgetting.kept(context, load_data(context)[0])
    return found


def client(
    *,
    uses: Kept | None = kept,
    forgets: bool = True,
    net: Callable[[], nn.Module] = Net,
    **given: Any,
) -> ClientApp:
    """A user's app, with a mistake."""
    app = ClientApp()
    forgetting: Any = None
    if forgets:
        settings = {"model": net, "loss": cross_entropy, "data": load_data} | given
        forgetting = unlearnable(app, **settings)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = Net()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        dataset = load_data(context)[0] if uses is None else uses(forgetting, context)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train()
        for inputs, labels in DataLoader(dataset, batch_size=8, shuffle=True):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        metrics = MetricRecord({"num-examples": len(dataset)})  # type: ignore[arg-type]
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


class MixedGrid(InlineGrid):
    """A grid whose last node runs another app."""

    def __init__(self, app: ClientApp, other: ClientApp) -> None:
        super().__init__(app, NODES)
        self._other = other

    def _reply(self, message: Message) -> Message:
        whole = self._app
        if message.metadata.dst_node_id == NODES:
            self._app = self._other
        try:
            return super()._reply(message)
        finally:
            self._app = whole


def remove(
    app: ClientApp,
    *,
    grid: InlineGrid | None = None,
    net: Callable[[], nn.Module] = Net,
    remembers: bool = True,
    **request: Any,
) -> RemovalResult:
    """Train for a few rounds and remove."""
    torch.manual_seed(0)
    random.seed(0)
    grid = grid or InlineGrid(app, NODES)
    strategy: Any = FedAvg(fraction_evaluate=0.0)
    if remembers:
        strategy = RememberingStrategy(strategy)
    result = strategy.start(grid, ArrayRecord(Net().state_dict()), num_rounds=3)
    given: dict[str, Any] = {"strategy": strategy} if remembers else {}
    with unlearning(grid, CONTEXT, model=net, trained=result.arrays, **given) as removal:
        removal.forget(**(request or {"records": {1: [0, 3]}}))
        return removal.result


def complaint(**mistake: Any) -> str:
    with pytest.raises(FedunlearnError) as caught:
        remove(**mistake)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("method", ["auto", "cubic-newton", "fine-tune", "rewind", "retrain"])
def test_without_a_mistake(method: str) -> None:
    result = remove(client(), method=method, records={1: [0, 3]})
    assert result.removed == {"1": 2}
    assert all(result.kept.values())
    assert not [one for one in result.remarks if "kept" in one]


def test_without_kept_the_result_says_so() -> None:
    result = remove(client(uses=None), method="cubic-newton", records={1: [0, 3]})
    assert not any(result.kept.values())
    assert any(
        "train() has not called forgetting.kept(context, dataset)" in r for r in result.remarks
    )


def test_without_kept_no_training_removes() -> None:
    result = remove(client(uses=None))
    assert any(
        "train() has not called forgetting.kept(context, dataset)" in r for r in result.remarks
    )


def test_kept_on_some_nodes_only() -> None:
    def sometimes(forgetting: Any, context: Context) -> Dataset[Any]:
        if context.node_config["partition-id"] == 2:
            return load_data(context)[0]
        return kept(forgetting, context)

    result = remove(client(uses=sometimes))
    assert result.kept == {"0": True, "1": True, "2": False}


def test_a_wider_model_on_the_server() -> None:
    assert "model= what builds the network that was trained" in complaint(app=client(), net=Wider)


def test_a_wider_model_on_the_nodes() -> None:
    assert "node" in complaint(app=client(net=Wider))


def test_other_names_of_layers() -> None:
    text = complaint(app=client(), net=OtherNames)
    assert "which the model does not have; give model=" in text


@pytest.mark.parametrize("side", ["server", "nodes", "both"])
def test_layers_made_in_another_order(side: str) -> None:
    """Either it works, and comes to the same, or the difference is named."""
    server = Net if side == "nodes" else OtherOrder
    nodes = Net if side == "server" else OtherOrder
    straight = remove(client(), method="cubic-newton", records={1: [0, 3]})
    try:
        turned = remove(client(net=nodes), net=server, method="cubic-newton", records={1: [0, 3]})
    except FedunlearnError as error:
        assert side != "both"
        assert "model" in str(error) and "\n" not in str(error)
        return
    assert turned.after.retain is not None and straight.after.retain is not None
    assert turned.after.retain.loss == pytest.approx(straight.after.retain.loss, abs=1e-4)


def test_without_initial_weights_it_works_and_says_what_was_assumed() -> None:
    result = remove(client(), remembers=False)
    assert result.method == "cubic-newton"
    assert any("initial weights are not known" in one for one in result.remarks)


def test_methods_that_train_need_the_strategy() -> None:
    text = complaint(app=client(), remembers=False, records={1: [0]}, method="fine-tune")
    assert "strategy=RememberingStrategy(...)" in text


def test_a_node_without_the_app() -> None:
    forgets, plain = client(), client(forgets=False, uses=None)
    text = complaint(app=forgets, grid=MixedGrid(forgets, plain))
    assert "does not answer query.enrol" in text and "unlearnable(app, ...)" in text


def test_no_node_with_the_app() -> None:
    text = complaint(app=client(forgets=False, uses=None))
    assert "does not answer query.enrol" in text


def test_dropout_in_training_works() -> None:
    first = remove(client(), method="cubic-newton", records={1: [0, 3]})
    again = remove(client(), method="cubic-newton", records={1: [0, 3]})
    assert first.before == again.before and first.after == again.after


def test_data_that_return_the_held_out_set() -> None:
    app = client(data=lambda context: load_data(context)[1])
    text = complaint(app=app, nodes=[2])
    assert f"has {EXAMPLES} examples" in text and f"have {HELD_OUT} to train on" in text
    assert "give both the same data" in text


def test_kept_on_the_held_out_set() -> None:
    def wrong(forgetting: Any, context: Context) -> Dataset[Any]:
        found: Dataset[Any] = forgetting.kept(context, load_data(context)[1])
        return found

    text = complaint(app=client(uses=wrong))
    assert f"has {HELD_OUT} examples" in text and "give both the same data" in text


def test_kept_on_both_parts() -> None:
    def both(forgetting: Any, context: Context) -> Dataset[Any]:
        train, test = load_data(context)
        forgetting.kept(context, test)
        found: Dataset[Any] = forgetting.kept(context, train)
        return found

    text = complaint(app=client(uses=both))
    assert f"has {HELD_OUT} examples" in text and "give both the same data" in text


def test_data_without_what_kept_drops() -> None:
    """A removal names places of all examples; data that kept has shortened do not have them."""
    forgettings: list[Any] = []

    def shortened(context: Context) -> Any:
        return forgettings[0].kept(context, load_data(context)[0])

    app = ClientApp()
    forgettings.append(unlearnable(app, model=Net, loss=cross_entropy, data=shortened))
    grid = InlineGrid(app, NODES)
    arrays = ArrayRecord(Net().state_dict())
    with unlearning(grid, CONTEXT, model=Net, trained=arrays) as removal:
        removal.forget(records={1: [0, 3]})
        assert removal.result.removed == {"1": 2}


def test_data_that_take_no_context() -> None:
    text = complaint(app=client(data=lambda: examples(0)))
    assert "TypeError in the task's own code: data()" in text


def test_data_that_are_an_iterator() -> None:
    text = complaint(app=client(data=lambda context: iter(load_data(context)[0])))
    assert "data" in text


def test_a_loss_that_sums() -> None:
    text = complaint(app=client(loss=nn.CrossEntropyLoss(reduction="sum")))
    assert "mean" in text


def test_a_loss_of_each_example() -> None:
    assert "loss" in complaint(app=client(loss=nn.CrossEntropyLoss(reduction="none")))


def test_a_module_in_the_place_of_what_builds_it() -> None:
    with pytest.raises(FedunlearnError, match="give what builds one, as Net"):
        client(net=Net())


def test_unlearnable_twice() -> None:
    app = client()
    with pytest.raises(FedunlearnError, match="call unlearnable once for an app"):
        unlearnable(app, model=Net, loss=cross_entropy, data=load_data)
