"""The schema of results.json: strict on reading, numbers as numbers, one line where unusable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedunlearn.cli.report import report, schema
from fedunlearn.errors import InputError
from fedunlearn.reporting.documents import read_document
from fedunlearn.reporting.results import Metrics, Results
from tests.comparisons import document, results_of

PUBLISHED = Path(__file__).parents[2] / "docs" / "reference" / "results.schema.json"


def written(folder: Path, found: object, name: str = "results.json") -> Path:
    path = folder / name
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    return path


def test_results_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    results = results_of(document(3, requests=2))
    assert read_document(written(tmp_path, results.to_json()), Results) == results
    assert json.loads(results.to_json()) == document(3, requests=2)


def test_what_is_not_a_number_is_absent() -> None:
    nan = float("nan")
    assert Metrics(forget_js=nan, tow=float("inf"), mia_auc=0.5).model_dump() == {"mia_auc": 0.5}
    changed = document(0)
    entry = changed["requests"][0]["methods"]["cubic-newton"]
    entry["curve"] = [{"rounds": 0, "forget_js": 0.1}, {"rounds": 1, "forget_js": nan}]
    entry["details"] = {"gain": nan, "candidates": [{"gain": nan, "weight": 1.0}], "ritz": [nan, 1]}
    again = json.loads(results_of(changed).to_json())["requests"][0]["methods"]["cubic-newton"]
    assert again["curve"] == [{"rounds": 0, "forget_js": 0.1}, {"rounds": 1}]
    assert again["details"] == {"candidates": [{"weight": 1.0}], "ritz": [1]}


def changed(path: str, value: object) -> dict[str, Any]:
    found: Any = document(0)
    *parts, last = path.split(".")
    inner = found
    for part in parts:
        inner = inner[int(part)] if part.isdecimal() else inner[part]
    inner[last] = value
    return dict(found)


UNUSABLE: dict[str, tuple[object, str]] = {
    "no schema": (
        {key: value for key, value in document(0).items() if key != "schema"},
        "has no key 'schema'",
    ),
    "a list": ([1, 2], "has no key 'schema'"),
    "a later schema": (document(0) | {"schema": 2}, "is of schema 2; this version"),
    "torn": (json.dumps(document(0))[:300], "is damaged: "),
    "empty": ("", "is damaged: "),
    "a text for a number": (
        changed("requests.0.trained.tow", "0.5"),
        "is damaged: requests.0.trained.tow: ",
    ),
    "an unknown key": (
        changed("requests.0.trained.novel", 0.5),
        "is damaged: requests.0.trained.novel: ",
    ),
    "a share of a round": (
        changed("requests.0.retrained.rounds", 1.5),
        "is damaged: requests.0.retrained.rounds: ",
    ),
    "no requests": (document(0) | {"requests": []}, "is damaged: requests: "),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    found, says = UNUSABLE[name]
    path = written(tmp_path, found)
    with pytest.raises(InputError) as caught:
        read_document(path, Results)
    assert str(caught.value).startswith(f"results {path} ")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json not found"):
        read_document(tmp_path / "nowhere.json", Results)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="is damaged: it is not UTF-8"):
        read_document(tmp_path / "bytes.json", Results)
    with pytest.raises(InputError, match="cannot be read"):
        read_document(tmp_path, Results)


def test_the_published_schema_is_the_one_that_the_command_prints() -> None:
    printed = CliRunner().invoke(schema, ["results"]).output
    assert PUBLISHED.read_text(encoding="utf-8") == printed, (
        "the schema changed; run: fedunlearn schema results > docs/reference/results.schema.json"
    )


@pytest.mark.parametrize("name", ["results", "comparison", "tuning"])
def test_every_document_has_a_schema_with_its_version(name: str) -> None:
    printed = json.loads(CliRunner().invoke(schema, [name]).output)
    assert printed["properties"]["schema"]["const"] == 1
    assert printed["additionalProperties"] is False


def test_report_compares_stored_results(tmp_path: Path) -> None:
    paths = [
        str(written(tmp_path, document(seed), f"{seed}.json"))
        for seed in range(2)  # seeds of one scenario
    ]
    out = tmp_path / "out"
    done = CliRunner().invoke(report, [*paths, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "Mean ± standard deviation over 2 seeds" in done.output
    assert {path.name for path in out.iterdir()} == {
        *{"comparison.html", "comparison.json", "comparison.csv"}
    }


def test_report_refuses_results_that_do_not_belong_together(tmp_path: Path) -> None:
    paths = [str(written(tmp_path, document(0, requests=n), f"{n}.json")) for n in (1, 2)]
    done = CliRunner().invoke(report, [*paths, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, InputError)
    assert "2 requests in results 2, 1 in the first" in str(done.exception)
