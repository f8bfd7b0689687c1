"""Cells: one odd text must not turn a column of numbers into a column of words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.data.cells import MISSING_MARKERS, as_number, is_marker
from fedunlearn.data.sources import Split, load_split
from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.data import DataSettings

ODD = [
    *("NA", "?", "n/a", "NaN", "None", "null", "-", "#N/A", "missing", "unknown", "abc"),
    *("1,234", "3,5", "12%", "$5", "€ 7", "1 234", "(5)", "<0.1", "~3", "5 kg", "1.234.567"),
    *("1_11", "0x1f", "inf", "\u0661\u0662", "\uff11", "\u22123", "1e", "--5", "1.2.3"),
]


def load(path: Path, content: str, **keys: Any) -> Split:
    path.write_text(content, encoding="utf-8")
    base = {"name": "csv", "path": str(path), "label": "label", "nodes": 2, "partition": "iid"}
    return load_split(DataSettings.model_validate(base | keys))


def rows(age: str, *, count: int = 200, where: int = 7) -> str:
    """Return a table with one odd cell in its first column, in line ``where + 2``."""
    body = [f'"{age if row == where else row % 60}",{row},{row % 2}' for row in range(count)]
    return "age,bp,label\n" + "\n".join(body) + "\n"


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_cell_is_refused_with_its_place(odd: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path / "t.csv", rows(odd))
    message = str(caught.value)
    assert f"column 'age' holds numbers, but {odd.strip()!r} in line 9" in message
    assert "data.missing" in message and "\n" not in message


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_cell_is_missing_where_the_user_says_so(odd: str, tmp_path: Path) -> None:
    split = load(tmp_path / "t.csv", rows(odd), missing=[odd.strip()])
    assert split.inputs.shape[1] in (2, 3)  # where it is missing is marked if training sees it
    empty = load(tmp_path / "u.csv", rows(""))
    np.testing.assert_array_equal(split.inputs, empty.inputs)


@pytest.mark.parametrize("number", ["7", "-7.5", "+.5", "1e-3", "5.", "0007"])
def test_plain_decimals_are_numbers(number: str, tmp_path: Path) -> None:
    assert load(tmp_path / "t.csv", rows(number)).inputs.shape[1] == 2


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_writes_is_read_back(number: float) -> None:
    assert as_number(repr(number)) == number


def test_a_column_of_words_stays_one(tmp_path: Path) -> None:
    kinds = ["red", "green", "NA", "3"]
    text = "x,colour,label\n" + "".join(f"{r},{kinds[r % 4]},{r % 2}\n" for r in range(80))
    assert load(tmp_path / "t.csv", text).inputs.shape[1] == 1 + 4


def test_the_user_may_say_that_a_column_holds_words(tmp_path: Path) -> None:
    codes = ["10", "20", "V30"]
    text = "x,code,label\n" + "".join(f"{r},{codes[r % 3]},{r % 2}\n" for r in range(80))
    with pytest.raises(ScenarioError, match="column 'code' holds numbers, but 'V30' in line 4"):
        load(tmp_path / "t.csv", text)
    assert load(tmp_path / "t.csv", text, words=["code"]).inputs.shape[1] == 1 + 3
    with pytest.raises(ScenarioError, match=r"data.words: no column 'cod' \(did you mean"):
        load(tmp_path / "u.csv", text, words=["cod"])


@pytest.mark.parametrize("marker", ["NA", "?", "nan", "N/A", "null", "-", "None", "#N/A"])
@pytest.mark.parametrize("column", ["label", "site"])
def test_a_missing_marker_is_no_name(marker: str, column: str, tmp_path: Path) -> None:
    for others in (["1", "2"], ["cat", "dog"]):
        names = [marker if row == 5 else others[row % 2] for row in range(60)]
        other = [str(row % 2) for row in range(60)]
        pairs = (
            zip(names, other, strict=True) if column == "label" else zip(other, names, strict=True)
        )
        text = "x,label,site\n" + "".join(f"{r},{a},{b}\n" for r, (a, b) in enumerate(pairs))
        keys = {"partition": "natural", "by": "site", "nodes": None}
        with pytest.raises(ScenarioError) as caught:
            load(tmp_path / "t.csv", text, **keys)
        key = "label" if column == "label" else "by"
        assert f"data.{key}: column {column!r} holds {marker!r} in line 7" in str(caught.value)
        with pytest.raises(ScenarioError, match="has empty cells, the first in line 7"):
            load(tmp_path / "t.csv", text, missing=[marker], **keys)


@pytest.mark.parametrize("odd", ["1,234", "3,5", "12%", "$5"])
def test_a_number_in_another_form_is_no_label(odd: str, tmp_path: Path) -> None:
    names = [odd if row == 5 else str(row % 3) for row in range(60)]
    text = "x,label\n" + "".join(f'{r},"{name}"\n' for r, name in enumerate(names))
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path / "t.csv", text)
    assert f"data.label: column 'label' holds numbers, but {odd!r} in line 7" in str(caught.value)


def test_a_comparison_needs_plain_numbers_too(tmp_path: Path) -> None:
    text = "x,num\n" + "".join(f"{r},{'?' if r == 3 else r % 4}\n" for r in range(60))
    with pytest.raises(ScenarioError, match="column 'num' holds '\\?' in line 5"):
        load(tmp_path / "t.csv", text, label="num > 1")
    text = "x,num\n" + "".join(f"{r},{'2x' if r == 3 else r % 4}\n" for r in range(60))
    with pytest.raises(ScenarioError, match="column 'num' holds numbers, but '2x' in line 5"):
        load(tmp_path / "t.csv", text, label="num > 1")


def test_a_label_called_none_is_one_where_the_user_says_so(tmp_path: Path) -> None:
    text = "x,label\n" + "".join(f"{r},{['none', 'mild'][r % 2]}\n" for r in range(60))
    with pytest.raises(ScenarioError, match="column in data\\.words"):
        load(tmp_path / "t.csv", text)
    split = load(tmp_path / "t.csv", text, words=["label"])
    assert split.labels.texts == ("mild", "none")


def test_markers_are_known_in_every_case() -> None:
    for marker in MISSING_MARKERS:
        assert is_marker(marker) and is_marker(marker.upper())
    assert not is_marker("cat") and not is_marker("0")


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 3"])
def test_the_index_that_pandas_writes_is_no_feature(name: str, tmp_path: Path) -> None:
    text = f"{name},x,label\n" + "".join(f"{r},{r % 5},{r % 2}\n" for r in range(40))
    with pytest.raises(ScenarioError, match="as pandas writes its index; save the file with index"):
        load(tmp_path / "t.csv", text)


def test_long_cells_are_read(tmp_path: Path) -> None:
    text = "note,label\n" + "".join(f"{'word ' * 40_000}{r},{r % 2}\n" for r in range(8))
    split = load(tmp_path / "t.csv", text, text=["note"])
    assert len(split.inputs) == 6
