"""Lists of records: what does not parse as a whole is refused as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.cli.positions import positions, shown
from fedunlearn.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", [3]),
        ("3,5,7-9", [3, 5, 7, 8, 9]),
        (" 3, 5\t7-9 ", [3, 5, 7, 8, 9]),
        ("9-9", [9]),
        ("5,3,4-5", [3, 4, 5]),
        ("007", [7]),
    ],
)
def test_lists_are_read(text: str, expected: list[int], tmp_path: Path) -> None:
    assert positions(text) == expected
    for number, content in enumerate((text, f"\ufeff{text}\r\n", text.replace(",", "\n"))):
        path = tmp_path / f"list{number}.txt"
        path.write_text(content, encoding="utf-8")
        assert positions(str(path)) == expected


BAD = {
    "backwards": ("3,9-7", "9-7 in 3,9-7 is empty; a range is ascending, as 7-9"),
    "backwards after one": ("0-0,5-1", "5-1 in 0-0,5-1 is empty"),
    "nothing": ("", "an empty item"),
    "commas": (",", "an empty item"),
    "a gap": ("3,,9", "an empty item in 3,,9"),
    "an open end": ("3,", "an empty item in 3,"),
    "half a range": ("3-", "'3-' in 3- is not a position"),
    "negative": ("-3", "'-3' in -3 is not a position"),
    "two ranges": ("3-5-7", "'3-5-7' in 3-5-7 is not a position"),
    "blanks in a range": ("3 - 5", "'-' in 3 - 5 is not a position"),
    "too large": ("1234567890123456789", "is not a position"),
    "too many": ("0-100000", "names more than 100000; split them into several requests"),
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_of_a_list_is_taken_where_a_part_is_wrong(name: str, tmp_path: Path) -> None:
    text, says = BAD[name]
    with pytest.raises(InputError) as caught:
        positions(text)
    assert says in str(caught.value) and str(caught.value).startswith("--records: ")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match="--records: "):
        positions(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("content", ["3\nseven\n", "# mine\n3\n", "3;5\n", "3.5\n", "\u0663\n"])
def test_a_file_is_taken_whole_or_not(content: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="is not a position; give positions and ranges"):
        positions(str(path))


@pytest.mark.parametrize("text", ["1-x", "no such file", "\u0663", "a\0b"])
def test_what_is_neither_a_list_nor_a_file_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is neither a list such as 3,5,7-9 nor a readable file"):
        positions(text)


@given(st.sets(st.integers(0, 400), min_size=1))
def test_what_is_shown_is_read_back(numbers: set[int]) -> None:
    text = shown(sorted(numbers))
    if not text.endswith("..."):
        assert positions(text) == sorted(numbers)
