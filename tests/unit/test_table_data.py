"""Tables: what becomes a feature, a label, a node; and one line for every mistake."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.data.cells import as_number
from fedunlearn.data.class_labels import classes
from fedunlearn.data.draw import at_most, hold_out
from fedunlearn.data.features import features
from fedunlearn.data.partition import natural
from fedunlearn.data.sources import Split, load_split
from fedunlearn.data.table import Table, read_table
from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import parse_scenario
from tests.laws import laws
from tests.tables import hospitals

LAW = laws(60)
GROUPS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(
    lambda groups: np.array(groups, dtype=np.int64)
)


def table(**columns: list[str]) -> Table:
    return Table(columns, len(next(iter(columns.values()))))


def split_of(path: Path, text: str, **keys: Any) -> Split:
    path.write_text(text)
    return load_split(DataSettings.model_validate({"name": "csv", "path": str(path)} | keys))


# --- reading


def test_a_csv_is_read_plain_or_packed(tmp_path: Path) -> None:
    text = '\ufeffname , size\r\n"a, b",1\r\n\r\n"c ""d""", 2 \r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("t.csv", "t.csv.gz"):
        read = read_table(tmp_path / name)
        assert read.length == 2
        assert read.columns == {"name": ("a, b", 'c "d"'), "size": ("1", "2")}


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1,5", "", "one"])
def test_what_is_no_finite_number_is_a_word(text: str) -> None:
    assert as_number(text) is None


# --- labels


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("num", [0, 2, 1, 3]),  # 0, 2, 10 and 1 sorted as numbers
        ("num > 1", [0, 1, 0, 1]),
        ("num>=1", [0, 1, 1, 1]),
        ("num < 2", [1, 0, 1, 0]),
        (" num <= 2 ", [1, 1, 1, 0]),
        ("num == 10.0", [0, 0, 0, 1]),
        ("num != 1", [1, 1, 0, 1]),
        ("word", [1, 0, 2, 1]),
        ("word == b c", [1, 0, 0, 1]),
        ("word != 'b c'", [0, 1, 1, 0]),
        ("a > b", [1, 0, 1, 0]),  # a column of that very name
    ],
)
def test_labels_number_classes_from_0(label: str, expected: list[int]) -> None:
    columns = {
        "num": ["0", "2", "1", "10"],
        "word": ["b c", "a", "d", "b c"],
        "a > b": ["1", "0", "1", "0"],
    }
    numbers, _ = classes(label, Table(columns, 4))
    assert numbers.tolist() == expected
    assert numbers.dtype == np.int64


# --- features


def test_numbers_are_imputed_marked_and_standardised() -> None:
    made = table(x=["1", "", "3", "8"], y=["0", "0", "4", "0"], z=["5", "5", "5", "5"])
    values = features(made, ["x", "y", "z"], [], np.arange(4))
    filled = np.array([1.0, 3.0, 3.0, 8.0])
    assert values.shape == (4, 4)
    np.testing.assert_allclose(values[:, 0], (filled - filled.mean()) / filled.std())
    np.testing.assert_allclose(values[:, :2].mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(values[:, :2].std(0), 1.0)
    np.testing.assert_array_equal(values[:, 2], 0.0)  # constant
    np.testing.assert_array_equal(values[:, 3], [0, 1, 0, 0])  # where x is missing; y, z are whole


def test_zero_is_missing_only_where_it_is_said() -> None:
    made = table(x=["0", "2", "4"], y=["0", "2", "4"])
    values = features(made, ["x", "y"], ["x"], np.arange(3))
    assert values.shape == (3, 3)
    np.testing.assert_array_equal(values[:, 2], [1, 0, 0])
    assert values[0, 0] == pytest.approx(0.0)  # the median of 2 and 4 is also the mean of 3, 2, 4
    assert values[0, 1] < -1.0


def test_words_are_one_hot_and_unseen_ones_are_none() -> None:
    made = table(w=["b", "a", "b", "", "new"])
    values = features(made, ["w"], [], np.arange(4))
    np.testing.assert_array_equal(values, [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]])


def test_a_column_without_values_in_training_does_no_harm() -> None:
    values = features(table(x=["", "", "7"], y=["1", "2", "3"]), ["x", "y"], [], np.arange(2))
    assert np.isfinite(values).all()


@LAW
@given(other=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), gone=st.booleans())
def test_rows_outside_training_change_nothing_inside(other: list[float], gone: bool) -> None:
    inside = ["1", "", "3", "8", "2"]
    outside = ["" if gone else repr(value) for value in other]
    words = ["a", "b", "a", "b", "b", "a", "c", "d"]
    training = np.arange(5)
    alone = features(table(x=inside, w=words[:5]), ["x", "w"], [], training)
    together = features(table(x=inside + outside, w=words), ["x", "w"], [], training)
    np.testing.assert_array_equal(together[:5], alone)
    if not gone:
        filled = np.array([1.0, 2.5, 3.0, 8.0, 2.0])
        expected = (np.array(other) - filled.mean()) / filled.std()
        np.testing.assert_allclose(together[5:, 0], expected, rtol=1e-9, atol=1e-9)


def test_the_split_standardises_by_training_rows_only(tmp_path: Path) -> None:
    text = "x,num\n" + "".join(f"{row**2},{row % 2}\n" for row in range(80))
    whole = split_of(tmp_path / "t.csv", text, label="num", nodes=2, partition="iid")
    assert (len(whole.inputs), len(whole.test_inputs)) == (60, 20)
    assert whole.inputs.dtype == torch.float32
    assert float(whole.inputs.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(whole.inputs.std(correction=0)) == pytest.approx(1.0, abs=1e-6)
    together = torch.cat([whole.inputs, whole.test_inputs])
    assert abs(float(together.mean())) > 1e-3
    few = split_of(tmp_path / "t.csv", text, label="num", nodes=2, partition="iid", limit=12)
    assert (len(few.inputs), len(few.test_inputs)) == (12, 20)
    assert float(few.inputs.mean()) == pytest.approx(0.0, abs=1e-6)


# --- draws and the natural partition


@LAW
@given(groups=GROUPS)
def test_natural_is_a_partition_by_group(groups: np.ndarray) -> None:
    parts = natural(groups)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(groups)))
    assert [set(groups[part].tolist()) for part in parts] == [{g} for g in sorted(set(groups))]


@LAW
@given(groups=GROUPS, seed=st.integers(0, 2**20))
def test_a_quarter_of_every_group_is_held_out(groups: np.ndarray, seed: int) -> None:
    train, test = hold_out(groups, seed)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(groups)))
    for group in np.unique(groups):
        assert np.count_nonzero(groups[test] == group) == np.count_nonzero(groups == group) // 4


@LAW
@given(groups=GROUPS, more=st.integers(0, 300), seed=st.integers(0, 2**20))
def test_a_limit_leaves_no_group_empty(groups: np.ndarray, more: int, seed: int) -> None:
    limit = len(np.unique(groups)) + more
    chosen = at_most(limit, groups, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(limit, len(groups))
    assert set(groups[chosen]) == set(groups)
    assert np.array_equal(chosen, np.sort(chosen))


def test_nodes_are_the_columns_values_in_sorted_order(tmp_path: Path) -> None:
    keys = {"label": "num > 0", "partition": "natural", "by": "hospital"}
    path = tmp_path / "made.csv"
    whole = split_of(path, hospitals(), zero_is_missing=["chol"], **keys)
    assert [len(node) for node in whole.nodes] == [45, 105, 68, 83]  # of 60, 140, 90, 110
    assert len(whole.test_inputs) == 400 - 301
    assert whole.classes == 2
    # age, chol, stress; chol and stress missing; three kinds of pain
    assert whole.inputs.shape == (301, 8)
    assert whole.inputs[whole.nodes[0], 3].eq(1).all()  # east never measures chol
    assert whole.inputs[whole.nodes[1], 3].eq(0).all()
    few = split_of(path, hospitals(), limit=9, **keys)
    assert len(few.nodes) == 4
    assert sum(map(len, few.nodes)) == len(few.inputs) == 9
    assert split_of(path, hospitals(), nodes=4, **keys).nodes[3].tolist() == whole.nodes[3].tolist()


def test_the_seed_fixes_the_split(tmp_path: Path) -> None:
    keys = {"label": "num > 0", "partition": "natural", "by": "hospital"}
    first = split_of(tmp_path / "a.csv", hospitals(), **keys)
    again = split_of(tmp_path / "b.csv", hospitals(), **keys)
    other = split_of(tmp_path / "b.csv", hospitals(), seed=1, **keys)
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)


def test_other_partitions_spread_a_table_and_never_use_by(tmp_path: Path) -> None:
    keys = {"label": "num > 0", "by": "hospital", "partition": "iid"}
    spread = split_of(tmp_path / "made.csv", hospitals(), **keys)
    assert len(spread.nodes) == 10
    assert spread.inputs.shape[1] == 3 + 1 + 3  # nothing of hospital's four words


def test_nodes_default_to_ten_unless_the_data_names_them() -> None:
    assert DataSettings().nodes == 10
    assert parse_scenario({"data": {"partition": "iid"}}).data.nodes == 10
    csv = {"name": "csv", "path": "t.csv", "label": "y"}
    natural_one = parse_scenario({"data": csv | {"partition": "natural", "by": "b"}})
    assert natural_one.data.nodes is None
    assert natural_one.with_nodes(4).data.nodes == 4


# --- mistakes

GOOD = "site,x,w,num\n" + "".join(
    f"{'secretA' if row % 2 else 'secretB'},{row},{'red' if row % 3 else 'blue'},{row % 2}\n"
    for row in range(40)
)
BY = {"partition": "natural", "by": "site"}

MISTAKES: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "unknown label": (GOOD, {"label": "nun"}, "data.label: no column 'nun' (did you mean 'num'?)"),
    "unknown compared": (GOOD, {"label": "nun > 0"}, "no column 'nun' (did you mean 'num'?)"),
    "unknown by": (GOOD, BY | {"by": "sit"}, "data.by: no column 'sit' (did you mean 'site'?)"),
    "single equals": (GOOD, {"label": "num = 0"}, "'num = 0' cannot be read; use a column"),
    "no right side": (GOOD, {"label": "num >"}, "'num >' cannot be read"),
    "chained": (GOOD, {"label": "0 < num < 2"}, "cannot be read"),
    "word to number": (GOOD, {"label": "num > high"}, "holds numbers, which 'high' is not"),
    "order of words": (GOOD, {"label": "w > red"}, "words, which have no >; use == or !="),
    "one class": (GOOD, {"label": "num > 7"}, "'num > 7' gives a single class"),
    "no such word": (GOOD, {"label": "w == green"}, "gives a single class"),
    "empty label": (GOOD + "secretA,1,red,\n", {}, "data.label: column 'num' has empty cells"),
    "fractions": (GOOD + "secretA,1,red,0.5\n", {}, "holds fractions; compare it with a number"),
    "empty by": (GOOD + ",1,red,0\n", BY, "data.by: column 'site' has empty cells"),
    "lonely row": (GOOD + "alone,1,red,0\n", BY, "node alone, of 3 that column 'site' names, has"),
    "one node": (GOOD.replace("secretB", "secretA"), BY, "'site' names one node only"),
    "other nodes": (GOOD, BY | {"nodes": 3}, "data.nodes: 3, but column 'site' names 2"),
    "by is label": (GOOD, BY | {"by": "num"}, "data.by: 'num' is the label's column"),
    "few for nodes": (GOOD, BY | {"limit": 1}, "data.limit: 1 examples for 2 nodes"),
    "too many nodes": (GOOD, {"nodes": 31}, "data.nodes: 31 nodes but 30 examples"),
    "no test rows": ("x,num\n1,0\n2,1\n3,1\n", {}, "too few rows to hold any out for testing"),
    "no features": (
        "site,num\n" + "a,0\na,1\nb,0\nb,1\n" * 2,
        BY,
        "no column is left for features",
    ),
    "zero of none": (GOOD, {"zero-is-missing": ["y"]}, "data.zero-is-missing: no column 'y'"),
    "zero of words": (GOOD, {"zero-is-missing": ["w"]}, "column 'w' holds words, not numbers"),
    "zero of label": (GOOD, {"zero-is-missing": ["num"]}, "'num' is no feature"),
    "text": (
        "note,num\n" + "".join(f"secret {row},{row % 2}\n" for row in range(101)),
        {},
        "column 'note' holds more than 100 different words; list columns of text in data.text",
    ),
    "short row": (GOOD + "secretA,1\n", {}, "line 42 has 2 cells but line 1 names 4 columns"),
    "long row": (GOOD + "secretA,1,2,3,4\n", {}, "line 42 has 5 cells"),
    "open quote": (GOOD + 'secretA,"1\n', {}, "line 42 is not csv; close its quotes"),
    "no header": ("secretA,63,1\nsecretB,67,0\n", {}, "line 1 must name the columns"),
    "twice": ("x,num,x\n1,0,1\n", {}, "line 1 names a column twice"),
    "semicolons": ("x;num\n1;0\n", {}, "separate columns by commas"),
    "only a header": ("x,num\n", {}, "has no rows"),
    "empty": ("", {}, "is empty; its first line must name the columns"),
    "not text": (b"\xff\xfe\x00\x80", {}, "is not a csv in UTF-8"),
    "null characters": (b"x,num\n1\0,0\n", {}, "is not a csv; it holds null characters"),
}


def require_one_clear_line(error: pytest.ExceptionInfo[ScenarioError], says: str) -> None:
    message = str(error.value)
    assert says in message
    assert message.startswith("data.")
    assert "\n" not in message
    assert "secret" not in message  # nothing of a node's data


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_without_data(name: str, tmp_path: Path) -> None:
    content, keys, says = MISTAKES[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    base = {"name": "csv", "path": str(path), "label": "num"}
    if "partition" not in keys:
        base["partition"] = "iid"
    with pytest.raises(ScenarioError) as caught:
        load_split(DataSettings.model_validate(base | keys))
    require_one_clear_line(caught, says)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.parquet", b"PAR1", "is not a csv; give a .csv or .csv.gz"),
        ("t.csv.gz", b"not gzip", "cannot be unpacked; give a whole gzip file"),
        ("u.csv.gz", gzip.compress(GOOD.encode())[:-12], "cannot be unpacked"),
        ("v.csv.gz", gzip.compress(GOOD.encode())[:20] + b"\xff" * 90, "cannot be unpacked"),
        ("folder.csv", None, "cannot be read: Is a directory"),
        ("gone.csv", b"", "cannot be read: No such file"),
    ],
)
def test_files_that_are_no_csv(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif content:
        path.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        read_table(path)
    require_one_clear_line(caught, says)


CSV = {"name": "csv", "path": "t.csv", "label": "num"}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"name": "csv", "label": "num"}, "data.path: is required for name = 'csv'"),
        ({"name": "csv", "path": "t.csv"}, "data.label: is required for name = 'csv'"),
        (CSV | {"partition": "natural"}, "data.by: is required for partition = 'natural'"),
        ({"partition": "natural", "by": "x"}, "data.partition: 'natural' needs name = 'csv'"),
        ({"name": "idx", "path": "p", "partition": "natural"}, "'natural' needs name = 'csv'"),
        ({"label": "num"}, "data.label: is for name = 'csv' or 'huggingface', not 'digits'; leave"),
        ({"by": "site"}, "data.by: is for name = 'csv'"),
        ({"zero-is-missing": ["chol"]}, "data.zero-is-missing: is for name = 'csv'"),
        (CSV | {"zero-is-mising": []}, "unknown key (did you mean 'zero-is-missing'?)"),
        (CSV | {"partition": "natural", "by": "x", "nodes": 1}, "data.nodes: must be greater"),
    ],
)
def test_keys_that_do_not_fit_together(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario({"data": keys})
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
