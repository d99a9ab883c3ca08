"""What reading the tests of a row can tell about them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.code_generation.parsing import python_tree, syntax_error

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def wrong_tests(tests: str) -> BadRow | None:
    """What is wrong with the tests of a row: they do not parse, or nothing in them can fail; None if neither is so."""
    tree = python_tree(tests)
    if tree is None:
        return BadRow(
            f"the tests are not valid Python ({syntax_error(tests)}); correct them, or set task.language if they are "
            "in another language"
        )
    if runs_something(tree):
        return None
    defined = defined_functions(tree)
    only = f": they only define {', '.join(defined)[:80]}" if defined else ""
    needed = ", or add the column entry_point with the function to check" if "check" in defined else ""
    return BadRow(f"the tests call nothing at top level{only}, so nothing can fail; call it in the tests{needed}")


def runs_something(tree: ast.Module) -> bool:
    """Whether a module calls a function, asserts or raises at top level, where it is not part of a definition."""
    return any(isinstance(node, ast.Assert | ast.Call | ast.Raise) for node in _at_top_level(tree))


def defined_functions(tree: ast.Module) -> list[str]:
    """The names of the functions that a module defines."""
    return [statement.name for statement in tree.body if isinstance(statement, _FUNCTIONS)]


def _at_top_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*_FUNCTIONS, ast.Lambda)):
            yield child
            yield from _at_top_level(child)


def with_call(tests: str, entry_point: str) -> str:
    """``tests`` with a call of their function ``check`` for the function of a program, if they only define it."""
    tree = python_tree(tests)
    if tree is None or runs_something(tree) or "check" not in defined_functions(tree):
        return tests
    return f"{tests.rstrip()}\n\ncheck({entry_point})\n"
