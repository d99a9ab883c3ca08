"""Names that tests import from each other exist. Without it, only a whole run shows a helper that has moved."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def names_of(path: Path) -> set[str]:
    """What ``path`` defines or imports anywhere."""
    names = set()
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.Import() | ast.ImportFrom():
                names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    return names


def exists(module: str, name: str) -> bool:
    place = ROOT / module.replace(".", "/")
    if (place / name).is_dir() or (place / f"{name}.py").is_file():
        return True
    path = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    return path.is_file() and name in names_of(path)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_names_that_it_imports_from_tests_exist(path: Path) -> None:
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree_of(ROOT / path))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "tests"
        for alias in node.names
        if not exists(node.module, alias.name)
    ]
    assert missing == []
