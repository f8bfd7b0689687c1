"""What a cached result depends on: code that computes it, and nothing that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedunlearn
from fedunlearn.lab.result_keys import COMPUTING
from fedunlearn.lab.source import source_digest

FILES = {
    "__init__.py": "",
    "train.py": '"""Trains."""\nfrom pack.numbers import double\n\n\ndef go(x):\n    double(x)\n',
    "numbers.py": 'def double(x):\n    """Twice."""\n    return 2 * x  # two\n',
    "service.py": "import pack.numbers\n\n\ndef serve():\n    pass\n",
    "part/__init__.py": "from pack import lazy\n",
    "lazy.py": "A = 1\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pack"


@pytest.mark.parametrize(
    ("file", "text", "same"),
    [
        ("service.py", '"""Serves otherwise."""\nX = 1\n', True),
        ("numbers.py", 'def double(x):\n    """Two times."""\n    return 2 * x\n', True),
        ("numbers.py", "def double(x):\n    return 3 * x\n", False),
        ("numbers.py", 'def double(x):\n    "2"\n    return "2" * x\n', False),
        ("train.py", FILES["train.py"].replace("Trains", "Fits"), True),
        ("train.py", FILES["train.py"] + "\n\nimport pack.part\n", False),
        ("lazy.py", "A = 2\n", True),
    ],
)
def test_only_code_that_is_imported_counts(file: str, text: str, same: bool, package: Path) -> None:
    before = source_digest(package, ["pack.train"])
    (package / file).write_text(text)
    assert (source_digest(package, ["pack.train"]) == before) == same


def test_what_a_module_outside_imports_counts_too(package: Path) -> None:
    source = "def method():\n    from pack.part import lazy\n    return lazy.A\n"
    before = source_digest(package, [], source)
    assert source_digest(package, [], source.replace("def", "# a method\ndef")) == before
    assert source_digest(package, [], source.replace("lazy.A", "lazy.A + 1")) != before
    (package / "lazy.py").write_text("A = 2\n")
    assert source_digest(package, [], source) != before


def test_a_service_is_no_part_of_a_model() -> None:
    from fedunlearn.lab.source import _closure

    modules = _closure(Path(fedunlearn.__file__).parent, COMPUTING)
    packages = {module.split(".")[1] for module in modules}
    assert {"risk", "federation", "flower", "data", "parameters"} <= packages
    assert not {"service", "requests", "worker", "cli"} & packages
