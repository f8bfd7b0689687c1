"""The digest of the source code that a result depends on: modules and what they import.

Comments, docstrings and modules that the computation never imports do not count: after an edit of
these, every cached model is still valid.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def source_digest(package: Path, roots: Iterable[str], source: str = "") -> str:
    """Return the SHA-256 of some modules of a package and of everything they import from it.

    Args:
        package: Folder of the package.
        roots: Names of modules.
        source: Source of a module outside of the package, which counts with its imports.

    Returns:
        A hexadecimal digest; the same for the same code.
    """
    own = ast.parse(source)
    trees = _closure(package, [*roots, *_imported(own, package.name)])
    named = hashlib.sha256(f"{_code(own)}\0".encode())
    for module, tree in sorted(trees.items()):
        named.update(f"{module}\0{_code(tree)}\0".encode())
    return named.hexdigest()


def _closure(package: Path, roots: Iterable[str]) -> dict[str, ast.Module]:
    found: dict[str, ast.Module] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        path = _path(package, module)
        if module in found or path is None:
            continue
        tree = ast.parse(path.read_bytes())
        found[module] = tree
        waiting += _imported(tree, package.name)
    return found


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the names that a module imports from a package, modules and members alike."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.partition(".")[0] == package)


def _path(package: Path, module: str) -> Path | None:
    """Return the file of a module; None for a member of a module or the package itself."""
    parts = module.split(".")[1:]
    if not parts:
        return None
    base = package.joinpath(*parts)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _code(tree: ast.Module) -> str:
    """Return a module's code without comments and docstrings; this changes the tree."""
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(ast.fix_missing_locations(tree))
