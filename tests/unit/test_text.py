"""Columns of text as token ids."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.data.sources import Split, load_split
from fedunlearn.errors import ScenarioError
from fedunlearn.scenario.data import DataSettings
from fedunlearn.scenario.loading import parse_scenario
from fedunlearn.tokens import LENGTH, PADDING, VOCABULARY, token_ids
from tests.laws import laws
from tests.tables import shared_data

LAW = laws(25)
TEXT = st.text(alphabet="abcé ,.-1", max_size=300)


@LAW
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_ids_are_words_then_padding_whatever_else_is_there(texts: list[str]) -> None:
    ids = token_ids(texts)
    assert ids.shape == (len(texts), LENGTH)
    assert ids.dtype == np.int64
    assert ids.min() >= 0 and ids.max() < VOCABULARY
    for row, text in zip(ids, texts, strict=True):
        count = np.count_nonzero(row)
        assert (row[:count] != PADDING).all()
        assert np.array_equal(token_ids([text])[0], row)  # no vocabulary is fitted


def test_words_are_read_in_order_without_case_or_signs() -> None:
    one, same, turned, none = token_ids(["The cat, a CAT!", "the cat cat", "cat the", " ! "])
    assert np.array_equal(one, same)
    assert np.count_nonzero(one) == 3
    assert one[1] == one[2] == turned[0] and one[0] == turned[1] != one[1]
    assert not none.any()


def test_long_texts_end_and_words_spread_over_the_vocabulary() -> None:
    words = [f"w{number}" for number in range(20_000)]
    ids = token_ids(words)[:, 0]
    assert ids.min() == 1 and ids.max() == VOCABULARY - 1
    assert np.bincount(ids, minlength=VOCABULARY)[1:].max() < 25  # 5 expected
    (long,) = token_ids([" ".join(words)])
    assert np.array_equal(long, ids[:LENGTH])


def test_another_process_gives_the_same_ids() -> None:
    code = "from fedunlearn.tokens import token_ids; print(token_ids(['Ünion wins']).tolist())"
    environment = {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert printed.strip() == str(token_ids(["Ünion wins"]).tolist())
    assert token_ids(["hello"])[0, 0] == 1 + 613153351 % (VOCABULARY - 1)  # MurmurHash3 of hello


ROWS = "\n".join(
    f'{1 + row % 4},"Secret {row}, title","text of {"goals" if row % 2 else "shares"}",{row % 3}'
    for row in range(240)
)
NEWS = f"label,title,description,site\n{ROWS}\n"
CSV = {"name": "csv", "label": "label", "partition": "iid", "nodes": 3}


def split_of(path: Path, **keys: Any) -> Split:
    path.write_text(NEWS)
    return load_split(DataSettings.model_validate(CSV | {"path": str(path)} | keys))


def test_columns_of_a_csv_are_joined_and_the_others_left_out(tmp_path: Path) -> None:
    split = split_of(tmp_path / "t.csv", text=["title", "description"])
    assert split.inputs.dtype == torch.int64
    assert split.inputs.shape == (180, LENGTH)
    assert len(split.test_inputs) == 60
    assert split.classes == 4  # 1 to 4 become 0 to 3
    expected = token_ids([f"Secret {row} title text of goals" for row in range(240)])
    goals = split.targets % 2 == 1
    known = {tuple(row) for row in expected.tolist()}
    assert all(tuple(row.tolist()) in known for row in split.inputs[goals])
    assert not any(tuple(row.tolist()) in known for row in split.inputs[~goals])
    alone = split_of(tmp_path / "u.csv", text=["description"], limit=50)
    assert len(alone.inputs) == 50
    assert set((alone.inputs != PADDING).sum(1).tolist()) == {3}


def test_a_column_may_name_the_nodes(tmp_path: Path) -> None:
    keys = {"text": ["title"], "partition": "natural", "by": "site", "nodes": None}
    assert [len(node) for node in split_of(tmp_path / "t.csv", **keys).nodes] == [60, 60, 60]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"text": ["titel"]}, "data.text: no column 'titel' (did you mean 'title'?)"),
        ({"text": ["title", "label"]}, "data.text: 'label' is the label's or the node's column"),
        ({"text": ["site"], "by": "site"}, "data.text: 'site' is the label's or the node's column"),
        ({}, "column 'title' holds more than 100 different words; list columns of text in data."),
    ],
)
def test_a_mistake_gets_one_line_without_data(
    keys: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ScenarioError) as caught:
        split_of(tmp_path / "t.csv", **keys)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            CSV | {"path": "t.csv", "text": ["title"], "zero-is-missing": ["x"]},
            "data.zero-is-missing: is for columns of numbers, which text leaves out; drop one",
        ),
        ({"text": ["title"]}, "data.text: is for name = 'csv' or 'huggingface', not 'digits'"),
        (CSV | {"path": "t.csv", "text": "title"}, "data.text: must be a list"),
    ],
)
def test_keys_that_do_not_fit_together(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario({"data": keys})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(shared_data() is None, reason="needs the shared data")
def test_news_is_read() -> None:
    folder = shared_data()
    assert folder is not None
    path = folder / "ag-news-test" / "ag_news_test.csv.gz"
    keys = {"path": str(path), "text": ["title", "description"], "nodes": 10}
    split = load_split(DataSettings.model_validate(CSV | keys))
    assert (len(split.inputs), len(split.test_inputs), split.classes) == (5700, 1900, 4)
    ends = (split.inputs[:, -1] == PADDING).double().mean()
    assert 0.97 < float(ends) < 0.99
