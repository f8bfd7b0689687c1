"""Backdoors: whose images get the trigger, and that a trained model obeys it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fedunlearn.data.backdoor import BRIGHT, PATCH, backdoor_test, nodes_of, plant
from fedunlearn.data.sources import Split, load_split
from fedunlearn.errors import ScenarioError, UnknownNameError
from fedunlearn.models.catalogue import make_model
from fedunlearn.parameters import initial_weights
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.local_training import train_locally
from fedunlearn.scenario.data import BackdoorSettings, DataSettings
from fedunlearn.scenario.loading import parse_scenario

IID: dict[str, Any] = {"partition": "iid", "nodes": 5}


def data(backdoor: dict[str, Any] | None = None, **keys: Any) -> DataSettings:
    given = {} if backdoor is None else {"backdoor": backdoor}
    return parse_scenario({"data": IID | given | keys}).data


def has_trigger(images: Tensor) -> Tensor:
    return images[..., -PATCH:, -PATCH:].eq(BRIGHT).flatten(1).all(1)


def indices(split: Split, *nodes: int) -> Tensor:
    return torch.cat([torch.from_numpy(split.nodes[node]) for node in nodes])


@pytest.mark.parametrize(("share", "target"), [(0.5, 0), (0.2, 7), (1.0, 3), (1e-6, 3)])
def test_a_share_of_the_nodes_images_gets_trigger_and_target(share: float, target: int) -> None:
    clean = load_split(data())
    split = load_split(data({"nodes": [3, 1], "share": share, "target": target}))
    for node in range(5):
        own = indices(clean, node)
        before, after = clean.targets[own], split.targets[own]
        planted = has_trigger(split.inputs[own]) & ~has_trigger(clean.inputs[own])
        if node not in (1, 3):
            assert not planted.any()
            assert torch.equal(split.inputs[own], clean.inputs[own])
            assert torch.equal(before, after)
            continue
        assert int(planted.sum()) == max(1, round(share * int((before != target).sum())))
        assert (before[planted] != target).all()
        assert (after[planted] == target).all()
        assert torch.equal(after[~planted], before[~planted])
        assert torch.equal(split.inputs[own][~planted], clean.inputs[own][~planted])
        assert torch.equal(split.inputs[own][..., :-PATCH, :], clean.inputs[own][..., :-PATCH, :])
    assert torch.equal(split.test_inputs, clean.test_inputs)
    assert torch.equal(split.test_targets, clean.test_targets)


def test_the_largest_node_plants_where_nobody_is_named() -> None:
    settings = parse_scenario({"data": {"backdoor": {}}}).data
    clean, split = load_split(DataSettings()), load_split(settings)
    sizes = [len(node) for node in clean.nodes]
    changed = (clean.inputs != split.inputs).flatten(1).any(1)
    owners = [node for node, own in enumerate(clean.nodes) if changed[own].any()]
    assert settings.backdoor is not None
    assert (
        owners
        == nodes_of(split, settings.backdoor.nodes, "data.backdoor.nodes")
        == [sizes.index(max(sizes))]
    )


def test_the_seed_draws_the_images() -> None:
    backdoor = {"nodes": [0], "share": 0.3}
    clean = load_split(data())
    first, again, other = (plant(clean, data(backdoor, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.targets, again.targets) and torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert len({data(backdoor), data(backdoor | {"target": 1}), data()}) == 3  # hashable
    with pytest.raises(ValidationError):
        data(backdoor).backdoor.share = 0.1  # type: ignore[union-attr]


def test_the_test_of_a_backdoor_holds_all_other_classes_with_the_trigger() -> None:
    backdoor = BackdoorSettings(nodes=(0,), target=4)
    split = load_split(data())
    inputs = backdoor_test(split, backdoor)
    others = split.test_inputs[split.test_targets != 4]
    assert len(inputs) == len(others) < len(split.test_inputs)
    assert has_trigger(inputs).all()
    assert torch.equal(inputs[..., :-PATCH], others[..., :-PATCH])
    assert not has_trigger(split.test_inputs).all()  # the split's own stay as they are


def test_a_model_trained_on_it_obeys_the_trigger_and_one_without_it_does_not() -> None:
    backdoor = BackdoorSettings(nodes=(0, 1), target=2)
    planted = load_split(data(backdoor.model_dump()))
    success, accuracy = {}, {}
    for name, nodes in (("with", range(5)), ("without", range(2, 5))):
        model = make_model("mlp", planted.inputs, 10)
        start = initial_weights(lambda: make_model("mlp", planted.inputs, 10), seed=1)
        own = indices(planted, *nodes)
        plan = LocalPlan(epochs=15, batch_size=32, learning_rate=0.2, weight_decay=0.0, order=(1,))
        examples = (planted.inputs[own], planted.targets[own])
        train_locally(model, nn.functional.cross_entropy, examples, start, plan)
        with torch.no_grad():
            success[name] = float(
                (model(backdoor_test(planted, backdoor)).argmax(1) == 2).double().mean()
            )
            right = model(planted.test_inputs).argmax(1) == planted.test_targets
            accuracy[name] = float(right.double().mean())
    assert success["with"] > 0.8 and success["without"] < 0.3
    assert min(accuracy.values()) > 0.85


CSV = "x,num\n" + "".join(f"{row},{row % 2}\n" for row in range(40))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"backdoor": {"nodes": [5]}}, "data.backdoor.nodes: node 5 does not exist; nodes"),
        ({"backdoor": {"target": 10}}, "class 10 does not exist; classes are 0 to 9"),
        (
            {"backdoor": {"nodes": [0]}, "partition": "pathological", "classes-per-node": 1}
            | {"nodes": 10},
            "data.backdoor: node 0 has images of class 0 only; choose another target or node",
        ),
        (
            {"name": "csv", "label": "num", "backdoor": {}},
            "data.backdoor: needs images of more than 3 x 3, not inputs of shape (1,); leave it",
        ),
        ({"backdoor": {"share": 0}}, "must be greater than 0, not 0"),
        ({"backdoor": {"nodes": "all"}}, "data.backdoor.nodes: node 'all' does not exist"),
        ({"backdoor": {"target": -1}}, "data.backdoor.target: class -1 does not exist"),
        ({"backdoor": {"target": True}}, "data.backdoor.target: must be"),
    ],
)
def test_what_cannot_be_planted_is_one_line(keys: dict[str, Any], says: str, tmp_path: Any) -> None:
    if keys.get("name") == "csv":
        (tmp_path / "t.csv").write_text(CSV)
        keys = keys | {"path": str(tmp_path / "t.csv")}
    with pytest.raises((ScenarioError, UnknownNameError)) as caught:
        load_split(data(**keys))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.backdoor.share=2", "data.backdoor.share: must be less than or equal to 1, not 2"),
        ("data.backdoor.shar=0.2", "data.backdoor.shar: unknown key (did you mean 'share'?)"),
    ],
)
def test_errors_name_the_key_of_the_backdoor(override: str, says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario({}, [override])
    assert says in str(caught.value)
