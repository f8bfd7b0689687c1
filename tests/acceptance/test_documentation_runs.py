"""The code and the notebook of the documentation run as printed, and its site builds."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from fedunlearn.requests.keys import PrivateKey
from tests.documentation import BLOCKS, DOCS, LINES, ROOT, Block, Line
from tests.unit.test_receipts import receipt

PUBLIC = ("fedunlearn", "fedunlearn.flower", "fedunlearn.testing")
NOTEBOOK = DOCS / "notebooks" / "forget_a_node.ipynb"
EXTENSIONS = ("add-a-method", "add-a-data-set", "add-a-transport")


def run_in(
    folder: Path, *words: str | Path, timeout: float = 240.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(words),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def make_file(path: Path) -> None:
    """Make a file that a block reads."""
    key = PrivateKey.generate("ed25519")
    if path.name == "results.json":
        of_method = {"forget_js": 0.03, "tow": 0.93}
        entry = {"floor": {"forget_js": 0.01}, "methods": {"cubic-newton": of_method}}
        path.write_text(json.dumps({"requests": [entry]}))
    elif path.name == "receipt.json":
        path.write_text(receipt(key))
        path.with_name("issuer.pub").write_text(key.public.pem)
    else:
        assert path.exists(), f"no test makes {path.name}"


PROGRAMS: dict[str, list[Block]] = {}
for _block in BLOCKS:
    if _block.language == "python" and _block.marker in {"", "files"}:
        PROGRAMS.setdefault(_block.page, []).append(_block)


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_python_of_a_page_runs(page: str, tmp_path: Path) -> None:
    for block in PROGRAMS[page]:
        for name in block.given.split():
            make_file(tmp_path / name)
    program = tmp_path / "page.py"
    program.write_text("\n".join(block.text for block in PROGRAMS[page]))
    done = run_in(tmp_path, sys.executable, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_first_program_runs_on_flowers_engine_too(tmp_path: Path) -> None:
    (block,) = PROGRAMS["docs/get-started.md"]
    program = tmp_path / "wine.py"
    text = block.text.replace('transport="inline"', 'transport="flower"')
    program.write_text(text.replace("rounds=60", "rounds=3"))  # a round there takes a second
    done = run_in(tmp_path, sys.executable, program)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([275])" in done.stdout


@pytest.mark.parametrize(
    "page", [page for page in sorted(DOCS.rglob("*.md")) if ">>> " in page.read_text()], ids=str
)
def test_the_sessions_of_a_page_print_what_they_show(page: Path) -> None:
    failed, tried = doctest.testfile(
        str(page),
        module_relative=False,
        optionflags=doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE,
    )
    assert tried and not failed


def test_every_public_name_is_used_by_an_example_that_runs() -> None:
    api = [block.text for block in BLOCKS if block.page.startswith("docs/reference/api/")]
    used = {word for text in api for word in re.findall(r"\w+", text)}
    assert set(public_names()) <= {f"{module}.{word}" for module in PUBLIC for word in used}


def public_names() -> Iterator[str]:
    for module in PUBLIC:
        for name in importlib.import_module(module).__all__:
            yield f"{module}.{name}"


def write_patients(folder: Path) -> None:
    """Write a table of two hospitals with a signal in one column."""
    rows = [
        f"{'north' if n % 3 else 'south'},{40 + n % 30},{(n * 7) % 11},{int((n * 7) % 11 > 5)}"
        for n in range(240)
    ]
    (folder / "patients.csv").write_text("\n".join(["hospital,age,pressure,num", *rows]))


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_works_from_the_page_alone(name: str, tmp_path: Path) -> None:
    page = f"docs/how-to/{name}.md"
    write_patients(tmp_path)
    for block in BLOCKS:
        if block.page == page and block.marker == "file":
            path = tmp_path / block.given
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)
    installed = tmp_path / "installed"
    lines = [line for line in LINES if line.block.page == page]
    assert len(lines) >= 2
    for line in lines:
        done = as_printed(line, tmp_path, installed)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def as_printed(line: Line, folder: Path, installed: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a page; 'pip install' goes to a folder of the test's own."""
    program, *arguments = line.words
    if program == "pip":
        where = ["--target", str(installed), "--no-index", "--no-build-isolation", "--quiet"]
        return run_in(
            folder,
            *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check"),
            *(*where, "--no-deps", arguments[-1]),
        )
    known: Mapping[str, Path] = {
        "python": Path(sys.executable),
        "fedunlearn": Path(sys.executable).with_name("fedunlearn"),
    }
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    return run_in(folder, known[program], *arguments, PYTHONPATH=path)


def test_the_notebook_runs_and_is_stored_without_its_outputs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert not [out for out in outputs if out.output_type == "error"]


class Loaded(HTMLParser):
    """Collects what a page loads, and the anchors in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.pictures: list[str | None] = []
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        if tag == "img":
            self.pictures.append(given.get("alt"))
        source = given.get("src") or (given.get("href") if tag == "link" else None)
        if source:
            self.loaded.append(source)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Loaded]:
    """Build the site as 'make docs' does, and read its pages."""
    folder = tmp_path_factory.mktemp("site")
    build = re.findall(r"^docs:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert build == ["NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict"]
    mkdocs = Path(sys.executable).with_name("mkdocs")
    words = ("build", "--strict", "--site-dir", str(folder))
    done = run_in(ROOT, mkdocs, *words, NO_MKDOCS_2_WARNING="1")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {}
    for path in folder.rglob("*.html"):
        pages[str(path.relative_to(folder))] = read = Loaded()
        read.feed(path.read_text(encoding="utf-8"))
    return pages


def test_the_site_loads_nothing_from_elsewhere(site: Mapping[str, Loaded]) -> None:
    assert len(site) > 30
    for name, page in site.items():
        elsewhere = [one for one in page.loaded if re.match(r"(https?:)?//", one)]
        assert not elsewhere, name
        assert all(page.pictures), f"{name} has a picture without words"
        assert "Sentinel" not in page.text, f"{name} shows an internal name"


def test_every_public_name_has_an_anchor(site: Mapping[str, Loaded]) -> None:
    anchors = set().union(*(page.anchors for page in site.values()))
    assert set(public_names()) <= anchors
