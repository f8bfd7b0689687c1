"""Names of nodes and classes: a text of the data, exactly; a number only orders them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.data.sources import Split, load_split
from fedunlearn.errors import (
    ForgetSetError,
    MissingAnswerError,
    NonFiniteError,
    UnknownNameError,
)
from fedunlearn.lab.forget_requests import resolve_requests
from fedunlearn.lab.run import run_scenario
from fedunlearn.named_errors import by_name, errors_by_name
from fedunlearn.names import Names, as_decimal, in_order
from fedunlearn.progress import Silent
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.scenario.sections import ForgetSettings

BIG = str(2**53)
NEXT = str(2**53 + 1)


def names(*texts: str) -> Names:
    return Names("class", in_order(texts))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["10", "9", "-1", "1.5"], ["-1", "1.5", "9", "10"]),
        (["7", "007", "07"], ["007", "07", "7"]),
        (["1E10", "1e10", "2"], ["2", "1E10", "1e10"]),
        ([NEXT, BIG], [BIG, NEXT]),
        (["1_11", "11_1", "9"], ["11_1", "1_11", "9"]),
        (["\u0661", "1"], ["1", "\u0661"]),  # an Arabic one is a text
        (["nan", "1", "inf"], ["1", "inf", "nan"]),
        (["b", "a", "10", "9"], ["10", "9", "a", "b"]),
        (["1e400", "9"], ["9", "1e400"]),
    ],
)
def test_numbers_order_and_texts_stay_texts(texts: list[str], expected: list[str]) -> None:
    assert list(in_order([*texts, *texts])) == expected


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12))
def test_every_text_is_found_as_itself(texts: list[str]) -> None:
    found = names(*texts)
    assert len(found) == len(set(texts))
    for text in texts:
        assert found[found.number(text, "key")] == text == found[found.place(text)]


@given(st.lists(st.from_regex(r"[+-]?[0-9]{1,3}(\.[0-9]{1,2})?", fullmatch=True), min_size=1))
def test_a_number_never_stands_for_a_text_of_another_value(texts: list[str]) -> None:
    found = names(*texts)
    for number in range(-3, 20):
        try:
            assert as_decimal(found[found.number(number, "key")]) == number
        except UnknownNameError as error:
            assert "\n" not in str(error)


def test_a_number_stands_for_the_only_text_of_its_value() -> None:
    floats = names("1.0", "2.0", "3.0")
    assert floats[floats.number(2, "k")] == floats[floats.number(2.0, "k")] == "2.0"
    mixed = names("7", "007")
    assert mixed[mixed.number(7, "k")] == mixed[mixed.number("7", "k")] == "7"
    assert mixed[mixed.number("007", "k")] == "007"
    for texts, number in ((["007", "07"], 7), (["1E10", "1e10"], 1e10)):
        with pytest.raises(UnknownNameError, match="could be any of") as caught:
            names(*texts).number(number, "forget.class")
        assert all(repr(text) in str(caught.value) for text in texts)


@pytest.mark.parametrize(
    ("texts", "name", "says"),
    [
        (["cat", "dog"], "cta", "k: class 'cta' (did you mean 'cat'?) does not exist; classes are"),
        (["cat", "dog"], 0, "k: class 0 does not exist; classes are 'cat', 'dog'"),
        (["1", "2", "3"], 0, "k: class 0 does not exist; classes are '1', '2', '3'"),
        (["0", "1", "2"], 3, "k: class 3 does not exist; classes are 0 to 2"),
        (["1_11", "11_1"], 111, "k: class 111 does not exist; classes are '11_1', '1_11'"),
    ],
)
def test_an_unknown_name_is_answered_with_those_there_are(
    texts: list[str], name: Any, says: str
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        names(*texts).number(name, "k")
    assert str(caught.value).startswith(says)


def test_codes_are_taken_where_no_name_is_a_number() -> None:
    assert Names.coded("class", ["ant", "bee"]).number(1, "k") == 1
    assert Names.coded("class", ["ant", "bee"]).number("bee", "k") == 1
    assert Names.coded("class", ["2", "1"]).number(1, "k") == 1  # the name, not the code
    with pytest.raises(UnknownNameError, match="class 0 does not exist"):
        Names.coded("class", ["2", "1"]).number(0, "k")


# --- from a csv to what is forgotten


def table(path: Path, labels: list[str], sites: list[str]) -> None:
    """Write 24 rows for each pair of a label and a site; the number of a label's rows tells it."""
    rows = ["x,kind,site"]
    for place, label in enumerate(labels):
        for copy in range(24 * (place + 1)):
            rows.append(f'{place + copy % 7},"{label}","{sites[copy % len(sites)]}"')
    path.write_text("\n".join(rows) + "\n")


def split_of(path: Path, **keys: Any) -> Split:
    base = {"name": "csv", "path": str(path), "label": "kind", "partition": "iid", "nodes": 2}
    return load_split(DataSettings.model_validate(base | keys))


DISTINCT = {
    "from one on": ["1", "2", "3"],
    "words": ["dog", "cat", "emu"],
    "zeros in front": ["007", "7", "07"],
    "underscores": ["1_11", "11_1", "111"],
    "powers": ["1E10", "1e10", "10000000000"],
    "above 2^53": [BIG, NEXT, str(2**53 + 2)],
    "negative": ["-1", "1", "+1"],
    "falling": ["30", "20", "10"],
    "fractions that are whole": ["1.0", "2.0", "3.0"],
}


@pytest.mark.parametrize("kind", DISTINCT)
def test_the_label_that_is_named_is_forgotten(kind: str, tmp_path: Path) -> None:
    labels = DISTINCT[kind]
    table(tmp_path / "t.csv", labels, ["a", "b"])
    split = split_of(tmp_path / "t.csv")
    whole = sorted(split.targets.bincount().tolist())
    for place, label in enumerate(labels):
        settings = ForgetSettings.model_validate({"kind": "class", "class": [label]})
        (forget,) = resolve_requests(settings, split)
        (number,) = forget.labels
        assert int((split.targets == number).sum()) == whole[place]
        described = forget.described(split.node_names, split.labels)
        assert described == f"class {label}"
        # The same on the command line, where TOML would read a number.
        for written in (label, f"[{label}]", f"['{label}']", f'[ "{label}" , {label}]'):
            override = parse_scenario({}, ["forget.kind=class", f"forget.class={written}"])
            assert resolve_requests(override.forget, split)[0].labels == {number}


@pytest.mark.parametrize("kind", DISTINCT)
def test_the_node_that_is_named_is_forgotten(kind: str, tmp_path: Path) -> None:
    sites = DISTINCT[kind]
    rows = ["x,y,site"]
    rows += [
        f"{row},{row % 2},{site}"
        for place, site in enumerate(sites)
        for row in range(8 * (place + 1))
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    split = split_of(tmp_path / "t.csv", label="y", partition="natural", by="site", nodes=None)
    assert len(split.nodes) == 3
    for place, site in enumerate(sites):
        override = parse_scenario({}, [f"forget.nodes={site}"])
        (forget,) = resolve_requests(override.forget, split)
        (number,) = forget.nodes
        assert len(split.nodes[number]) == 6 * (place + 1)
        assert forget.described(split.node_names, split.labels) == f"node {site}"


def test_a_comparison_names_its_classes(tmp_path: Path) -> None:
    table(tmp_path / "t.csv", ["1", "2", "3"], ["a"])
    split = split_of(tmp_path / "t.csv", label="kind > 1")
    assert split.labels.texts == ("kind <= 1", "kind > 1")
    settings = ForgetSettings.model_validate({"kind": "class", "class": "kind > 1"})
    (forget,) = resolve_requests(settings, split)
    assert forget.labels == {1}


def test_a_rule_that_is_a_name_too_must_be_made_clear(tmp_path: Path) -> None:
    table(tmp_path / "t.csv", ["commonest", "rarest"], ["a"])
    split = split_of(tmp_path / "t.csv")
    settings = ForgetSettings.model_validate({"kind": "class", "class": "commonest"})
    with pytest.raises(ForgetSetError, match="is a rule and the name of a class"):
        resolve_requests(settings, split)
    listed = ForgetSettings.model_validate({"kind": "class", "class": ["commonest"]})
    (forget,) = resolve_requests(listed, split)
    assert forget.described(split.node_names, split.labels) == "class commonest"


def test_labels_with_signs_are_compared_in_quotes(tmp_path: Path) -> None:
    table(tmp_path / "t.csv", ["<=50K", ">50K"], ["a"])
    split = split_of(tmp_path / "t.csv", label="kind == '>50K'")
    assert int(split.targets.sum() + split.test_targets.sum()) == 48
    assert split.labels.texts == ("kind != '>50K'", "kind == '>50K'")


SITES = Names("node", ("north", "south", "007"))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("node 1: no examples", "node south: no examples"),
        ("no answer from nodes 0, 2", "no answer from nodes north, 007"),
        ("training on node 2, in round 1", "training on node 007, in round 1"),
        ("1 of 2 nodes enrolled", "1 of 2 nodes enrolled"),
        ("node 3 is of no data", "node 3 is of no data"),
        ("done; without node 0, 1, which failed", "done; without node north, south, which failed"),
    ],
)
def test_what_is_said_inside_is_said_by_name_outside(said: str, expected: str) -> None:
    assert by_name(said, SITES) == expected
    with pytest.raises(MissingAnswerError) as caught, errors_by_name(SITES):
        raise MissingAnswerError(said, nodes=[0])
    assert (str(caught.value), caught.value.nodes) == (expected, (0,))
    numbers = Names("node", ("1", "2", "3"))
    with pytest.raises(MissingAnswerError) as twice, errors_by_name(numbers):
        with errors_by_name(numbers):
            raise MissingAnswerError("node 1 is missing")
    assert str(twice.value) == "node 2 is missing"


def test_an_error_of_a_run_calls_a_node_by_its_name(tmp_path: Path) -> None:
    table(tmp_path / "t.csv", ["a", "b"], ["east", "west"])
    scenario = {
        "data": {"name": "csv", "path": str(tmp_path / "t.csv"), "label": "kind"}
        | {"partition": "natural", "by": "site"},
        "model": {"name": "logistic"},
        "training": {"rounds": 2, "learning-rate": 1e30},
        "forget": {"nodes": ["west"]},
    }
    loaded = LoadedScenario("named", tmp_path, parse_scenario(scenario))
    with pytest.raises(NonFiniteError, match=r"node (east|west): training on node (east|west):"):
        run_scenario(loaded, transport="inline", progress=Silent())
