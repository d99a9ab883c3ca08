"""Whether a text is a program without syntax errors."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module

from finetune_api.tables.code import CodeLanguage

Parses = Callable[[str], bool]
"""Whether a text is a program without syntax errors."""

_TOO_LARGE = 1 << 20
"""Characters of a text that no parser gets; a model that repeats itself writes fewer."""


@cache
def parser_of(language: CodeLanguage) -> Parses | None:
    """The parser of a language; None if there is none."""
    row = language.row
    if not row.parses:
        return None
    parses = _with_grammar(row.grammar) if row.grammar else parses_as_python
    return lambda code: len(code) <= _TOO_LARGE and parses(code)


def parses_as_python(code: str) -> bool:
    """Whether Python can parse ``code``; it is the same Python that runs the tests."""
    return python_tree(code) is not None


def python_tree(code: str) -> ast.Module | None:
    """The syntax tree of ``code``; None if it has a syntax error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Such as those of invalid escape sequences.
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # The latter three for NUL and deep nesting.
        return None


def syntax_error(code: str) -> str:
    """What is wrong with ``code``, which Python cannot parse, in a clause that names the line."""
    try:
        ast.parse(code)
    except SyntaxError as error:
        line = (error.text or "").strip()[:60]
        return f"{error.msg} in line {error.lineno}" + (f", {line!r}" if line else "")
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error)[:100] or type(error).__name__
    return "no error"


def _with_grammar(address: str) -> Parses:
    """A parser with a grammar of tree-sitter.

    Args:
        address: ``module:function``.
    """
    from tree_sitter import Language, Parser

    module, _, name = address.partition(":")
    parser = Parser(Language(getattr(import_module(module), name)()))
    return lambda code: not parser.parse(code.encode(errors="replace")).root_node.has_error
