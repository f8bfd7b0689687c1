"""Scenarios: defaults, overrides, and errors that say what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.loading import load_scenario, parse_scenario
from fedunlearn.scenario.sections import ForgetSettings, Scenario
from fedunlearn.unlearning.cubic_newton import CubicNewtonSettings
from fedunlearn.unlearning.registry import make_method, method_names

SIMULATIONS = Path(__file__).parents[2] / "simulations"


def test_quickstart_is_what_demo_runs() -> None:
    loaded = load_scenario(SIMULATIONS / "quickstart.toml").settings
    written = loaded.unlearning.of_method["cubic-newton"]
    assert CubicNewtonSettings.model_validate(written) == CubicNewtonSettings()
    bare = loaded.unlearning.model_copy(update={"of_method": {}})
    assert loaded.model_copy(update={"unlearning": bare}) == Scenario()


SHIPPED = sorted({*SIMULATIONS.glob("*.toml")} - {SIMULATIONS / "leaderboard.toml"})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_scenarios_load(path: Path) -> None:
    unlearning = load_scenario(path).settings.unlearning
    for name in unlearning.methods:
        make_method(name, unlearning.of_method.get(name, {}))


def test_overrides_take_toml_values_and_bare_words() -> None:
    scenario = parse_scenario(
        {},
        [
            "data.seed=7",
            "data.alpha=1",
            "data.partition=iid",
            "forget.nodes=[1, 2]",
            'model.name="logistic"',
            "unlearning.cubic-newton.products=4",
            "unlearning.methods=['fine-tune']",
        ],
    )
    assert scenario.data.seed == 7
    assert scenario.data.alpha == 1.0
    assert scenario.data.partition == "iid"
    assert scenario.forget.nodes == ("1", "2")
    assert scenario.model.name == "logistic"
    assert scenario.unlearning.of_method == {"cubic-newton": {"products": 4}}
    assert scenario.unlearning.methods == ("fine-tune",)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.round=5", "training.round: unknown key (did you mean 'rounds'?)"),
        ("trainning.rounds=5", "trainning: unknown key (did you mean 'training'?)"),
        ("training.rounds=0", "training.rounds: must be greater than 0, not 0"),
        ("training.rounds=2.5", "training.rounds: must be a valid integer, not 2.5"),
        ("training.rounds=true", "training.rounds: must be a valid integer, not True"),
        ("training.learning-rate=nan", "training.learning-rate: must be"),
        (
            "data.partition=dirichlett",
            "data.partition: must be 'iid', 'dirichlet', 'pathological' or",
        ),
        ("data.path=5", "data.path: must be a path, not 5"),
        ("data.name=idx", "data.path: is required for name = 'idx'"),
        ("data.nodes=1", "data.nodes: must be greater than or equal to 2"),
        ("forget.nodes=[]", "forget.nodes:"),
        ("forget.count=x", "forget.count: must be a valid integer"),
        ("forget.count=0", "forget.count: must be greater than 0, not 0"),
        ("forget.kind=class", "forget.class: is required for kind = 'class'; give a label, or"),
        ("forget.class=[]", "forget.class: must be a name in quotes, or a list of names, not []"),
        ('forget.class=""', "forget.class: "),
        ("forget.fraction=1", "forget.fraction: must be less than 1"),
        ("unlearning.methods=[]", "unlearning.methods:"),
        ("evaluation.replicas=1", "evaluation.replicas: one further model is too few"),
        ("evaluation.replicas=3", "raise evaluation.oracles from 3 to 4"),
        ("rounds=5", "use section.key=value"),
        ("training.rounds", "use section.key=value"),
        ("data.seed.x=1", "data.seed: must be a valid integer"),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(override: str, says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario({}, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "forget",
    [
        {"nodes": [1, 2], "count": 2},
        {"kind": "samples", "count": 2},
        {"kind": "class", "class": 3, "nodes": [1], "count": 1},
    ],
)
def test_a_count_is_of_the_largest_nodes(forget: dict[str, object]) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario({"forget": forget})
    assert str(caught.value) == (
        "scenario: forget.count: is for nodes = 'largest', or for samples with sequential = true; "
        "leave it out"
    )


def test_without_a_word_the_largest_node_leaves_and_examples_leave_everywhere() -> None:
    assert ForgetSettings().nodes == ForgetSettings(nodes=None).nodes == "largest"
    assert parse_scenario({"forget": {"count": 3}}).forget == ForgetSettings(
        nodes="largest", count=3
    )
    for kind in ("samples", "class"):
        given = {"kind": kind, "class": "commonest"}
        assert parse_scenario({"forget": given}).forget.nodes is None
        largest = parse_scenario({"forget": given | {"nodes": "largest", "count": 2}}).forget
        assert (largest.nodes, largest.count) == ("largest", 2)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("cubic-nwton", {}, "did you mean 'cubic-newton'?"),
        (
            "cubic-newton",
            {"product": 3},
            "cubic-newton.product: unknown key (did you mean 'products'",
        ),
        ("cubic-newton", {"products": 0}, "cubic-newton.products: must be greater than 0"),
        ("cubic-newton", {"weight": "big"}, "'auto'"),
        ("cubic-newton", {"linearise-at": 1.5}, "linearise-at: must be less than or equal to 1"),
        ("fine-tune", {"rounds": 0}, "fine-tune.rounds:"),
        ("rewind", {"share": 0}, "rewind.share: must be greater than 0, not 0"),
        ("rewind", {"share": 1.1}, "rewind.share: must be less than or equal to 1, not 1.1"),
        ("rewind", {"learning-rate": 0}, "rewind.learning-rate: must be greater than 0"),
    ],
)
def test_methods_refuse_unknown_settings(name: str, settings: dict[str, object], says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        make_method(name, settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_our_methods_are_registered() -> None:
    assert {"cubic-newton", "fine-tune", "rewind"} <= set(method_names())


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "not found"), ("[data\n", "not valid TOML"), (b"\xff\xfe", "not valid TOML")],
)
def test_unreadable_files(tmp_path: Path, content: str | bytes | None, says: str) -> None:
    path = tmp_path / "scenario.toml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(ScenarioError, match=says):
        load_scenario(path)
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(tmp_path)
