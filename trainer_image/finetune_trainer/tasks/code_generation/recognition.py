"""Whether data is for CodeGeneration, and in which programming language its programs are."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune_api.tables.code import CodeLanguage
from finetune_trainer.prepare.readers import Values
from finetune_trainer.tasks.base import Recognised, known_name
from finetune_trainer.tasks.code_generation.parsing import parser_of

_COMPLETIONS = ("completion", "canonical_solution", "code", "solution")
_PROMPTS = ("prompt", "text")
_TESTS = ("tests", "test", "test_list")
_SURE = frozenset({"canonical_solution", "test_list"})
"""Columns of HumanEval and MBPP."""

_SAMPLE = 50
_ENOUGH = 0.8
"""Share of programs that parse in the language of the data; others may be cut or have mistakes."""
_BLOCK = re.compile(r"^\s*(?:async def|def|class)\b.*:\s*$|[{]\s*$", re.MULTILINE)
"""The beginning of a block. Words without one parse in several languages: ``hello``."""
_OPEN = "Set task.language: no programming language was recognised."
_NO_TESTS = "Remove or rename the column '{}', or set task.language: tests run only in Python, and this looks like {}."


def recognise(names: Sequence[str], rows: Sequence[Values]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`.

    Rows without tests are for this task if prompt and completion are programs together.
    """
    prompt, completion = known_name(_PROMPTS, names), known_name(_COMPLETIONS, names)
    if prompt is None or completion is None:
        return None
    tests = known_name(_TESTS, names)
    pairs = [
        (before, after)
        for row in rows[:_SAMPLE]
        if isinstance(before := row.get(prompt), str) and isinstance(after := row.get(completion), str)
    ]
    language = language_of(pairs)
    columns = {"prompt": prompt, "completion": completion}
    settings = {"language": str(language)} if language else {}
    if not tests and completion not in _SURE:
        begun = sum(bool(_BLOCK.search(before)) for before, _ in pairs)
        if language is None or begun < _ENOUGH * len(pairs):
            return None
        facts = f"the prompts begin programs in {language.row.title}, and there are no tests"
        return Recognised(columns, "", facts, certain=True, settings=settings)
    runs = language is None or language.row.runs
    if tests and runs:
        columns["tests"] = tests
    wrong = _NO_TESTS.format(tests, language.row.title) if tests and language and not runs else ""
    opened = wrong or ("" if language or not pairs else _OPEN)
    return Recognised(columns, "", "", certain=True, reads=("entry_point",), settings=settings, open=opened)


def language_of(pairs: Sequence[tuple[str, str]]) -> CodeLanguage | None:
    """The language of programs; None if it is not clear.

    Args:
        pairs: Prompts, which begin a program or are texts, and completions.
    """
    shares: dict[CodeLanguage, float] = {}
    for language in CodeLanguage:
        if pairs and (parses := parser_of(language)):
            right = sum(parses(before + after) or parses(after) for before, after in pairs)
            shares[language] = right / len(pairs)
    best = max(shares.values(), default=0.0)
    if best < _ENOUGH:
        return None
    likely = [language for language, share in shares.items() if share == best]
    # All JavaScript is TypeScript; short statements are right in many languages.
    if likely[0] in (CodeLanguage.PYTHON, CodeLanguage.JAVASCRIPT) or len(likely) == 1:
        return likely[0]
    return None
