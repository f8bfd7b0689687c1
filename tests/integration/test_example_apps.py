"""The apps in examples/ in one process: what they print, and what they train on afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from torch.utils.data import DataLoader

from tests.example_apps import InlineApp

# Peft asks transformers by a name of before.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

SMALL: dict[str, dict[str, Any]] = {
    "images": {"num-server-rounds": 2, "local-epochs": 1},
    "text": {"num-server-rounds": 2, "texts": 160, "hidden-size": 16},
    "hospitals": {"num-server-rounds": 2, "local-epochs": 1},
}
NODES = 3
FURTHER_ROUNDS = 10
NONE = {"forget-nodes": "", "forget-classes": "", "forget-records": ""}
LEFT = [1, 4, 5]


def contents(app: InlineApp, node: int) -> list[bytes]:
    """What every example of a node's training data holds, by its place."""
    data, _ = app.task.load_data(app.contexts[node])
    dataset = data.dataset if isinstance(data, DataLoader) else data
    return [repr(one).encode() for one in map(plain, dataset)]


def plain(example: Any) -> Any:
    if isinstance(example, dict):
        return {key: value for key, value in example.items()}
    return [part.tolist() for part in example]


def seen_in(app: InlineApp, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Note all that the app's own training takes out of the loaders that it is given."""
    seen: list[bytes] = []
    train_model = app.client.train_model

    def probed(model: Any, loader: DataLoader[Any], *settings: Any) -> float:
        class Noted:
            def __len__(self) -> int:
                return len(loader.dataset)  # type: ignore[arg-type]

            def __getitem__(self, place: int) -> Any:
                example = loader.dataset[place]
                seen.append(repr(plain(example)).encode())
                return example

        noted = DataLoader(
            Noted(),  # type: ignore[arg-type]
            batch_size=loader.batch_size,
            shuffle=True,
            collate_fn=loader.collate_fn,
        )
        result: float = train_model(model, noted, *settings)
        return result

    monkeypatch.setattr(app.client, "train_model", probed)
    return seen


def captured_arrays(app: InlineApp, monkeypatch: pytest.MonkeyPatch) -> list[ArrayRecord]:
    """What removals in the app return."""
    from fedunlearn.flower.own_server import Removal

    found: list[ArrayRecord] = []
    forget = Removal.forget

    def noted(self: Removal, **given: Any) -> ArrayRecord:
        found.append(forget(self, **given))
        return found[-1]

    monkeypatch.setattr(Removal, "forget", noted)
    return found


@pytest.mark.parametrize("name", SMALL)
def test_training_never_sees_removed_records_again(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = NONE | {"forget-records": f"{{1: {LEFT}}}"}
    app = InlineApp(name, "forgetting", NODES, SMALL[name] | request)
    arrays = captured_arrays(app, monkeypatch)
    app.run()
    assert "removed 3 examples of node 1 (3 examples) by rewind: done" in capsys.readouterr().out
    everything = [contents(app, node) for node in range(NODES)]
    removed = {everything[1][place] for place in LEFT}
    assert len(removed) == len(LEFT) and not removed & set(everything[0] + everything[2])
    seen = seen_in(app, monkeypatch)
    app.train_on(arrays[0], FURTHER_ROUNDS)
    epochs = int(app.config["local-epochs"])
    expected = FURTHER_ROUNDS * epochs * (sum(map(len, everything)) - len(LEFT))
    assert len(seen) == expected
    assert not removed & set(seen)


@pytest.mark.parametrize("name", SMALL)
def test_a_node_that_left_trains_no_more(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = InlineApp(name, "forgetting", NODES, SMALL[name] | NONE | {"forget-nodes": "[2]"})
    arrays = captured_arrays(app, monkeypatch)
    app.run()
    assert "removed node 2 " in capsys.readouterr().out
    gone = set(contents(app, 2))
    seen = seen_in(app, monkeypatch)
    app.train_on(arrays[0], FURTHER_ROUNDS)
    assert seen and not gone & set(seen)


@pytest.mark.parametrize("name", SMALL)
def test_a_class_is_never_trained_on_again(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "hospitals":
        pytest.skip("one of two classes: nothing to learn would stay")
    app = InlineApp(name, "forgetting", NODES, SMALL[name] | NONE | {"forget-classes": "[3]"})
    arrays = captured_arrays(app, monkeypatch)
    app.run()
    assert "removed class 3" in capsys.readouterr().out
    seen = seen_in(app, monkeypatch)
    app.train_on(arrays[0], FURTHER_ROUNDS)
    ending = b"'label': 3}" if name == "text" else b", 3]"
    assert seen and not [one for one in seen if one.endswith(ending)]


@pytest.mark.parametrize("name", SMALL)
def test_the_plain_app_runs(name: str) -> None:
    InlineApp(name, "plain", NODES, SMALL[name]).run()


def test_the_small_base_of_the_text_app_may_be_bfloat16(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = InlineApp("text", "forgetting", NODES, SMALL["text"] | {"bfloat16": True})
    app.run()
    assert "by rewind: done" in capsys.readouterr().out


def test_a_removal_takes_gradients_of_the_nodes_own_model_in_eval_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fedunlearn.flower import own_server
    from fedunlearn.questions.forget import ForgetSet

    app = InlineApp("images", "forgetting", NODES, SMALL["images"] | {"forget-nodes": "[2]"})
    found: dict[str, torch.Tensor] = {}
    forget = own_server.Removal.forget

    def noted(self: own_server.Removal, **given: Any) -> ArrayRecord:
        objective = self._own.federation.objective(ForgetSet.of_nodes(1, 2), weight_decay=0.0)
        found["gradient"] = objective.gradient(self._trained.weights)
        model = app.task.Net()
        model.load_state_dict(
            self._form.record(self._trained.weights, self._state).to_torch_state_dict()
        )
        model.eval()
        images, labels = app.task.load_data(app.contexts[0])[0].tensors
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        found["own"] = torch.cat([p.grad.flatten() for p in model.parameters()])
        return forget(self, **given)

    monkeypatch.setattr(own_server.Removal, "forget", noted)
    app.run()
    norm = found["own"].norm()
    assert abs(float(found["gradient"].norm() / norm) - 1) < 1e-5
    assert (found["gradient"] - found["own"]).norm() < 1e-5 * norm
