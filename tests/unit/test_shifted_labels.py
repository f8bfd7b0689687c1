"""Shifted labels: whose examples get a wrong label, which one, and the watermark on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedunlearn.data.shifted_labels import GREY
from fedunlearn.data.sources import Split, load_split
from fedunlearn.errors import ScenarioError, UnknownNameError
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import parse_scenario

PLAIN: dict[str, Any] = {"partition": "pathological", "nodes": 5}


def data(shifted: dict[str, Any] | None = None, **keys: Any) -> DataSettings:
    given = {} if shifted is None else {"shifted-labels": shifted}
    return parse_scenario({"data": PLAIN | given | keys}).data


def own(split: Split, node: int) -> Tensor:
    return torch.from_numpy(split.nodes[node])


@pytest.mark.parametrize(
    ("shifted", "share", "shift"),
    [({}, 0.8, 5), ({"share": 0.5, "shift": 1}, 0.5, 1), ({"share": 1, "shift": 13}, 1, 3)],
)
def test_a_share_of_the_nodes_labels_is_shifted_and_nothing_else(
    shifted: dict[str, Any], share: float, shift: int
) -> None:
    clean = load_split(data())
    split = load_split(data({"nodes": [3, 1]} | shifted))
    for node in range(5):
        before, after = clean.targets[own(clean, node)], split.targets[own(split, node)]
        wrong = before != after
        assert int(wrong.sum()) == (round(share * len(before)) if node in (1, 3) else 0)
        assert torch.equal(after[wrong], (before[wrong] + shift) % 10)
    assert torch.equal(split.inputs, clean.inputs)
    assert torch.equal(split.test_targets, clean.test_targets)


def test_the_largest_node_has_the_wrong_labels_where_none_is_named() -> None:
    clean, split = load_split(data()), load_split(data({}))
    sizes = [len(node) for node in clean.nodes]
    wrong = [node for node in range(5) if (clean.targets != split.targets)[own(clean, node)].any()]
    assert wrong == [sizes.index(max(sizes))]


def test_the_seed_draws_the_examples() -> None:
    first, again, other = (
        load_split(data({"nodes": [0], "share": share}, partition="iid", seed=seed)).targets
        for share, seed in ((0.3, 0), (0.3, 0), (0.3, 1))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_watermark_is_one_pattern_a_node_on_the_images_with_wrong_labels() -> None:
    plain = data({"nodes": [0, 1]})
    marked = load_split(data({"nodes": [0, 1], "watermark": True}))
    clean, wrong = load_split(data()), load_split(plain)
    assert torch.equal(marked.targets, wrong.targets)
    changed = (marked.inputs != clean.inputs).flatten(1).any(1)
    assert torch.equal(changed & (marked.targets == clean.targets), torch.zeros_like(changed))
    patterns = []
    for node in (0, 1):
        images = marked.inputs[own(marked, node)][
            (marked.targets != clean.targets)[own(marked, node)]
        ]
        grey = (images == GREY).all(0)
        patterns.append(grey)
        assert 0 < int(grey.sum()) <= 9
        assert not grey[..., -1:, :].any() and not grey[..., :-4, :].any()
        assert not grey[..., -1:].any() and not grey[..., :-4].any()
    assert not torch.equal(*patterns)
    assert torch.equal(marked.test_inputs, clean.test_inputs)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"shifted-labels": {"nodes": [5]}}, "data.shifted-labels.nodes: node 5 does not exist"),
        (
            {"shifted-labels": {"shift": 20}},
            "data.shifted-labels.shift: 20 leaves the labels of 10 classes as they are; give",
        ),
        (
            {"name": "csv", "label": "num", "shifted-labels": {"watermark": True}},
            "data.shifted-labels.watermark: needs images of more than 4 x 4, not inputs of shape",
        ),
        ({"shifted-labels": {"share": 0}}, "data.shifted-labels.share: must be greater than 0"),
        ({"shifted-labels": {"shift": 0}}, "data.shifted-labels.shift: must be greater than 0"),
        ({"shifted-labels": {"fraction": 1}}, "data.shifted-labels.fraction: unknown key"),
        ({"shifted-labels": {"nodes": True}}, "data.shifted-labels.nodes: must be a name"),
    ],
)
def test_what_cannot_be_shifted_is_one_line(
    keys: dict[str, Any], says: str, tmp_path: Path
) -> None:
    if keys.get("name") == "csv":
        (tmp_path / "t.csv").write_text("x,num\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
        keys = keys | {"path": str(tmp_path / "t.csv"), "classes-per-node": 1}
    with pytest.raises((ScenarioError, UnknownNameError)) as caught:
        load_split(data(**keys))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_names_nodes() -> None:
    settings = parse_scenario({}, ["data.shifted-labels.nodes=007"]).data
    assert settings.shifted_labels is not None and settings.shifted_labels.nodes == "007"
