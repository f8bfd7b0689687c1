"""The scenarios that are shipped can be run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedunlearn.lab.board import load_board
from fedunlearn.scenario.loading import load_scenario
from fedunlearn.unlearning.registry import make_method, method_names

FOLDER = Path(__file__).parents[2] / "simulations"
BOARDS = [FOLDER / "leaderboard.toml", FOLDER / "full" / "leaderboard.toml"]
SCENARIOS = sorted({*FOLDER.glob("*.toml"), *FOLDER.glob("full/*.toml")} - {*BOARDS})
PROMISED = {
    *("quickstart", "digits_node", "digits_class", "digits_samples", "digits_sequence"),
    *("fashion_mnist_node", "fashion_mnist_class", "fashion_mnist_samples"),
    *("fashion_mnist_sequence", "heart_hospitals", "cifar10_resnet18", "ag_news"),
    *("fedosd_protocol", "fedosd_protocol_clean"),
}


def test_what_was_promised_is_there() -> None:
    assert {path.stem for path in SCENARIOS} >= PROMISED
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(path.stem in listed for path in SCENARIOS)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_setting_is_one_that_its_method_takes(path: Path) -> None:
    unlearning = load_scenario(path).settings.unlearning
    for name in (*unlearning.methods, *unlearning.of_method):
        make_method(name, unlearning.of_method.get(name, {}))


def test_every_method_is_compared_somewhere() -> None:
    heads = {"exact-head", "certified-head"}  # which need a linear head
    (path,) = (path for path in SCENARIOS if path.stem == "digits_node")
    compared = set(load_scenario(path).settings.unlearning.methods)
    # Retraining is the last row of every table.
    assert compared == set(method_names()) - {"retrain"} - heads
    everywhere = [load_scenario(path).settings.unlearning.methods for path in SCENARIOS]
    assert heads <= {name for methods in everywhere for name in methods}


@pytest.mark.parametrize("path", BOARDS, ids=["small", "full"])
def test_every_scenario_and_method_of_the_leaderboard_is_known(path: Path) -> None:
    board = load_board(path, quick=False)
    left_out = {"retrain", "exact-head", "certified-head"}
    assert set(board.settings.methods) == set(method_names()) - left_out
    kinds = {loaded.settings.forget.kind for loaded in board.scenarios.values()}
    assert kinds == {"node", "samples", "class"}
    assert any(loaded.settings.forget.sequential for loaded in board.scenarios.values())
    assert len(board.settings.groups) >= 5
    assert set(load_board(path, quick=True).scenarios) == {"digits-node", "digits-10%"}
