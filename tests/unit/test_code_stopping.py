"""Which part of an output is the answer, and which program it makes (cases 17 and 18)."""

from __future__ import annotations

import pytest

from finetune_api.tables.code import CodeLanguage
from finetune_trainer.tasks.code_generation.parsing import parser_of
from finetune_trainer.tasks.code_generation.python_lines import leaves_block_open, logical_lines
from finetune_trainer.tasks.code_generation.stopping import is_python, stop_of

OPEN = "def inc(x):\n"
BODY = "    return x + 1\n"
WHOLE = OPEN + BODY
TEXT = "Write a function that adds one."
OTHER = "def dec(x):\n    return x - 1\n"
IN_STRING = "    t = '''\n  a\n'''\n    return t\n"
IN_BRACKETS = "    t = [\n1,\n]\n    return t\n"
DOCSTRING = 'def f():\n    """\n    ```\n    x\n    ```\n    """\n    return 1\n'

PYTHON = {
    "the end of the function": (OPEN, "    return x + 1", "    return x + 1"),
    "a statement after it": (OPEN, BODY + "\nprint(inc(1))\n", BODY + "\n"),
    "the same function again": (OPEN, BODY + "\ndef inc(x):\n    return 0\n", BODY + "\n"),
    "nothing": (OPEN, "", ""),
    "blanks": (OPEN, "  \n", "  \n"),
    "half a word": (OPEN, "    retur", "    retur"),
    "a string with a line at the margin": (OPEN, f"{IN_STRING}x = 1\n", IN_STRING),
    "brackets with a line at the margin": (OPEN, f"{IN_BRACKETS}x = 1\n", IN_BRACKETS),
    "a comment at the margin": (OPEN, "    a = 1\n# why\n    return a\nx = 1\n", "    a = 1\n# why\n    return a\n"),
    "a branch that goes on": ("if x:\n", "    y = 1\nelse:\n    y = 2\nz = 3\n", "    y = 1\nelse:\n    y = 2\n"),
    "a branch that follows": ("try:\n    x = f()\n", "except E:\n    x = 0\nz = 3\n", "except E:\n    x = 0\n"),
    "the rest of the line": ("def inc(x):", " return x + 1\nprint(1)\n", " return x + 1\n"),
    "the rest of the indentation": ("def inc(x):\n    ", "return x + 1\n\nprint(1)\n", "return x + 1\n\n"),
    "a fence of the block": (OPEN, f"```python\n{BODY}```", BODY),
    "a fence that starts again": (OPEN, f"Here:\n\n```python\n{WHOLE}```\nDone.", f"    pass\n{WHOLE}"),
    "the function without a fence": (OPEN, WHOLE, f"    pass\n{WHOLE}"),
    "a fence after the block": (OPEN, f"{BODY}```\nIt adds one.\n", BODY),
    "thoughts before it": (OPEN, f"<think>\nHm.\n</think>\n\n{BODY}", BODY),
    "no program": (OPEN, "It adds one.", "It adds one."),
    "text after a whole program": ("# inc\n", f"{WHOLE}That is it.\n", WHOLE),
    "another function after a whole one": (f"{WHOLE}\n\n# dec\n", f"{OTHER}As asked.", OTHER),
    "text after brackets": ("x = [\n", "    1,\n]\nprint(x)\nfoo bar", "    1,\n]\nprint(x)\n"),
    "an answer to a text": (TEXT, f"{WHOLE}\nThis is it.", f"{WHOLE}\n"),
    "a fence after a text": (TEXT, f"Sure:\n```python\n{WHOLE}```\nDone.", WHOLE),
    "a fence after a word": (TEXT, f"Answer\n```\n{WHOLE}```", WHOLE),
    "a fence without an end": (TEXT, f"```python\n{WHOLE}", WHOLE),
    "a longer fence": (TEXT, f"````python\n{WHOLE}````\n```\nx = 1\n```", WHOLE),
    "a fence in a docstring": (TEXT, f"{DOCSTRING}As asked.", DOCSTRING),
    "no program for a text": (TEXT, "I do not know.\nSorry.", "I do not know.\nSorry."),
}  # fmt: skip


@pytest.mark.parametrize(("prompt", "output", "answer"), PYTHON.values(), ids=PYTHON)
def test_the_answer_in_python(prompt: str, output: str, answer: str) -> None:
    stop = stop_of(CodeLanguage.PYTHON)
    assert stop.answer(prompt, output) == answer
    assert stop.answer(prompt, stop.answer(prompt, output)) == answer or "pass" in answer


@pytest.mark.parametrize(
    "prompt", [OPEN, "class Box:\n    def side(self):\n", "def f(x):\n    if x:\n", "for i in r:\n"]
)
def test_an_empty_answer_makes_a_program(prompt: str) -> None:
    stop = stop_of(CodeLanguage.PYTHON)
    program = stop.empty(prompt)
    assert program.startswith(prompt)
    compile(program, "program", "exec")


def test_a_text_is_not_a_part_of_the_program() -> None:
    stop = stop_of(CodeLanguage.PYTHON)
    assert stop.program(TEXT, WHOLE) == WHOLE
    assert stop.program(OPEN, BODY) == WHOLE


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (OPEN, True),
        ("", True),
        ("x = ", True),
        ("for i in ", True),
        ("x = [\n", True),
        ('def f():\n    """Return', True),
        ("@cache\n", True),
        (TEXT, False),
        ("Reverse a string", False),
        ("Don't use a loop.", False),
    ],
)
def test_texts_are_told_from_programs(prompt: str, code: bool) -> None:
    assert is_python(prompt) is code


def test_logical_lines_are_found_in_a_wrong_program() -> None:
    code = "x = 'it\ny = (1,\n2)\n\n# no line\nz = 3 + \\\n4\nprint('''a\nb''')\nw = (\n"
    lines = logical_lines(code)
    assert [line.text.strip() for line in lines[:2]] == ["x = 'it", "y = (1,\n2)"]
    assert [line.start for line in lines] == [code.index(start) for start in ("x =", "y =", "z =", "print", "w =")]
    assert [line.complete for line in lines] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("code", "is_open"), [(OPEN, True), (WHOLE, True), (f"{WHOLE}y = 1\n", False), ("d = {1:\n", False), ("", False)]
)
def test_open_blocks(code: str, is_open: bool) -> None:
    assert leaves_block_open(code) is is_open


BRACES = {
    "JavaScript": ("function f(x) {\n", "  return x;\n}\n"),
    "TypeScript": ("function f(x: number): number {\n", "  return x;\n}\n"),
    "Java": ("class A {\n  int f(int x) {\n", "    return x;\n  }\n}\n"),
    "Go": ("package main\n\nfunc f(x int) int {\n", "\treturn x\n}\n"),
    "Rust": ("fn f(x: i32) -> i32 {\n", "    x\n}\n"),
    "Cpp": ("int f(int x) {\n", "  return x;\n}\n"),
}


@pytest.mark.parametrize(("language", "prompt", "body"), [(name, *parts) for name, parts in BRACES.items()], ids=BRACES)
class TestBraces:
    def test_the_block_ends_the_answer(self, language: str, prompt: str, body: str) -> None:
        stop = stop_of(CodeLanguage(language))
        assert stop.answer(prompt, f"{body}\nand text {{") == body
        assert stop.answer(prompt, f"```\n{body}```") == body

    def test_a_fence_may_start_again(self, language: str, prompt: str, body: str) -> None:
        stop, parses = stop_of(CodeLanguage(language)), parser_of(CodeLanguage(language))
        answer = stop.answer(prompt, f"Here it is:\n```\n{prompt}{body}```")
        assert answer.startswith("}")
        assert answer.endswith(prompt + body)
        assert parses is not None
        assert parses(stop.program(prompt, answer))
        assert parses(stop.empty(prompt))

    def test_a_block_that_does_not_end_is_no_program(self, language: str, prompt: str, body: str) -> None:
        """Such as an answer of the largest length."""
        stop, parses = stop_of(CodeLanguage(language)), parser_of(CodeLanguage(language))
        unended = body.splitlines(keepends=True)[0]
        assert stop.answer(prompt, unended) == unended
        assert parses is not None
        assert not parses(stop.program(prompt, unended))

    def test_an_error_is_an_error(self, language: str, prompt: str, body: str) -> None:
        parses = parser_of(CodeLanguage(language))
        assert parses is not None
        assert parses(prompt + body)
        assert not parses(prompt + body + "} (")


def test_a_complete_prompt_takes_the_longest_run() -> None:
    stop = stop_of(CodeLanguage.JAVASCRIPT)
    assert stop.answer("// add\n", "let a = 1;\nlet b = 2;\nThat is all.\n") == "let a = 1;\nlet b = 2;\n"


def test_other_languages_have_no_parser() -> None:
    assert parser_of(CodeLanguage.OTHER) is None
    assert stop_of(CodeLanguage.OTHER).answer("p", "```\nx\n```\ny") == "x\n"
    assert stop_of(CodeLanguage.OTHER).answer("p", "  x\n") == "  x\n"


@pytest.mark.parametrize("code", ["(" * 100_000, "-" * 100_000 + "1", "x\0", "[" * 500 + "]" * 500, "x = '\ud83d'"])
def test_the_parser_survives_what_models_write(code: str) -> None:
    parses = parser_of(CodeLanguage.PYTHON)
    assert parses is not None
    assert not parses(code)
