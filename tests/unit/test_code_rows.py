"""Rows of CodeGeneration, their tests, and what finetune init recognises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from finetune_api.tables.code import CodeLanguage
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.sandbox.programs import Ending, OnPrograms, Outcome, Program
from finetune_trainer.tasks.code_generation.checking import run_tests
from finetune_trainer.tasks.code_generation.python_tests import with_call, wrong_tests
from finetune_trainer.tasks.code_generation.recognition import recognise
from finetune_trainer.tasks.code_generation.rows import Code, CodeRows
from finetune_trainer.tasks.code_generation.stopping import stop_of

ROWS = CodeRows(("prompt", "completion", "tests", "entry_point"))
ROW: dict[str, Any] = {"prompt": "def double(x):\n", "completion": "    return 2 * x\n"}
CHECK = "def check(candidate):\n    assert candidate(3) == 6\n"


def test_white_space_is_kept() -> None:
    row = ROWS.example({"prompt": "\n\tdef f():\n", "completion": "\n    x  \n\n"})
    assert (row.prompt, row.completion, row.tests) == ("\n\tdef f():\n", "\n    x  \n\n", "")


@pytest.mark.parametrize("tests", [["assert a", "assert b"], "assert a\nassert b"])
def test_tests_are_a_text_or_a_list(tests: object) -> None:
    assert ROWS.example(ROW | {"tests": tests}).tests == "assert a\nassert b"


@pytest.mark.parametrize("tests", ["", "  \n", None, []])
def test_empty_tests_are_none(tests: object) -> None:
    assert ROWS.example(ROW | {"tests": tests}).tests == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"completion": ""}, "column 'completion' is empty"),
        ({"completion": 3}, "column 'completion' contains a number, not text"),
        ({"prompt": " \n"}, "column 'prompt' is empty"),
        ({"tests": 3}, "column 'tests' contains a number, not text or a list of texts"),
        ({"tests": [3]}, "column 'tests' contains a list with a number, not text or a list of texts"),
        ({"tests": "a\0"}, "column 'tests' contains a NUL character"),
    ],
)
def test_an_invalid_row_is_explained(values: dict[str, object], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        ROWS.example(ROW | values)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadRow, match="column 'completion' is missing"):
        ROWS.example({"prompt": "x"})


def test_tests_need_python() -> None:
    rows = CodeRows(ROWS.names, CodeLanguage.GO)
    with pytest.raises(BadRow, match=r"column .tests. has tests, and task\.language is Go"):
        rows.example(ROW | {"tests": "x"})
    assert rows.example(ROW).tests == ""


def test_the_entry_point_is_checked() -> None:
    row = ROWS.example(ROW | {"tests": CHECK, "entry_point": "double"})
    assert row.tests == f"{CHECK}\ncheck(double)  # the call that entry_point asks for\n"
    assert wrong_tests(row.tests) is None


@pytest.mark.parametrize("tests", [f"{CHECK}check(double)\n", "assert double(3) == 6", "def test(): pass", "1 ="])
def test_tests_that_need_no_entry_point_stay(tests: str) -> None:
    assert with_call(tests, "double") == tests


@pytest.mark.parametrize(
    ("tests", "problem"),
    [
        ("assert double(3) == 6", None),
        ("double(3)", None),
        ("if double(3) != 6:\n    raise ValueError", None),
        ("for x in range(3):\n    assert double(x) == 2 * x", None),
        ("def test():\n    assert True\n", "they only define test, so nothing can fail; call it in the tests"),
        (CHECK, "they only define check, so nothing can fail; call it in the tests, or add the column entry_point"),
        ("x = 1", "the tests call nothing at top level, so nothing can fail"),
        (
            "assert double(3) = 6",
            r"the tests are not valid Python \(.* in line 1, 'assert double\(3\) = 6'\); .* task\.language",
        ),
    ],
)
def test_what_reading_tests_can_tell(tests: str, problem: str | None) -> None:
    found = wrong_tests(tests)
    if problem is None:
        assert found is None
    else:
        with pytest.raises(BadRow, match=problem):
            raise found or AssertionError("no problem was found")


class InProcess:
    """A sandbox for the harmless programs of this module."""

    def __init__(self) -> None:
        self.ran: list[Program] = []
        self.details: dict[str, str] = {}

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, programs: Sequence[Program], on_programs: OnPrograms) -> list[Outcome]:
        self.ran += programs
        return [self._outcome(program) for program in programs]

    def _outcome(self, program: Program) -> Outcome:
        names: dict[str, Any] = {}
        try:
            exec(program.code, names)
            exec(program.tests, names)
        except Exception as error:
            return Outcome(Ending.FAILED, type(error).__name__)
        return Outcome(Ending.PASSED)


@pytest.mark.parametrize(
    ("completion", "tests", "problem"),
    [
        ("    return 2 * x\n", "assert double(3) == 6\n", None),
        ("    return 2 * x\n", "", None),
        ("    return 2 * x\n", "assert True\n", "the tests pass without the completion"),
        (
            "    return 2 * x\n",
            "try:\n    assert double(3) == 6\nexcept Exception:\n    pass\n",
            "the tests pass without",
        ),
        ("Sure:\n```python\n    return 2 * x\n```\nDone.\n", "assert double(3) == 6\n", None),
        (
            "```\n    return 3 * x\n```\n",
            "assert double(3) == 6\n",
            r"the completion fails its tests \(AssertionError\)",
        ),
        ("    return 3 * x\n", "assert double(3) == 6\n", r"the completion fails its tests \(AssertionError\)"),
        (
            "    return helper(x)\n\ndef helper(x):\n    return 2 * x\n",
            "assert double(3) == 6\n",
            r"the completion passes its tests, but what counts of it as an answer does not \(NameError\)",
        ),
    ],
)
def test_what_running_tests_can_tell(completion: str, tests: str, problem: str | None) -> None:
    """Case 19."""
    found = run_tests([Code(ROW["prompt"], completion, tests)], stop_of(CodeLanguage.PYTHON), InProcess())
    if problem is None:
        assert not found
    else:
        with pytest.raises(BadRow, match=problem):
            raise found[0]


def test_equal_programs_run_once() -> None:
    sandbox = InProcess()
    rows = [Code(ROW["prompt"], ROW["completion"], "assert double(3) == 6\n")] * 3
    assert not run_tests(rows, stop_of(CodeLanguage.PYTHON), sandbox)
    assert len(sandbox.ran) == 2


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("prompt", "completion", "tests"), {"prompt": "prompt", "completion": "completion", "tests": "tests"}),
        (
            ("task_id", "prompt", "canonical_solution", "test", "entry_point"),
            {"prompt": "prompt", "completion": "canonical_solution", "tests": "test"},
        ),
        (
            ("task_id", "text", "code", "test_list", "test_setup_code"),
            {"prompt": "text", "completion": "code", "tests": "test_list"},
        ),
        (("prompt", "completion"), None),
        (("text", "code"), None),
    ],
)
def test_data_sets_are_recognised(names: Sequence[str], columns: dict[str, str] | None) -> None:
    found = recognise(names, [])
    assert (found.columns if found else None) == columns


PYTHON = {"prompt": "def double(x):\n", "completion": "    return 2 * x\n"}
JAVASCRIPT = {"prompt": "function double(x) {\n", "completion": "  return 2 * x;\n}\n"}


@pytest.mark.parametrize(
    ("row", "language"),
    [
        (PYTHON, "Python"),
        (JAVASCRIPT, "JavaScript"),
        ({"prompt": "function f(x: number): number {\n", "completion": "  return x;\n}\n"}, "TypeScript"),
        ({"prompt": "fn f(x: i32) -> i32 {\n", "completion": "    x\n}\n"}, "Rust"),
        ({"prompt": "package a\nfunc f(x int) int {\n", "completion": "\treturn x\n}\n"}, "Go"),
        ({"prompt": "class A {\n", "completion": "  public static int f(int x) { return x; }\n}\n"}, "Java"),
        ({"prompt": "int f(std::vector<int> x) {\n", "completion": "  return x[0];\n}\n"}, "Cpp"),
    ],
)
def test_programs_without_tests_are_recognised_with_their_language(row: dict[str, str], language: str) -> None:
    found = recognise(["prompt", "completion"], [row] * 9 + [{"prompt": "def ((", "completion": "{"}])
    assert found is not None
    assert found.settings == {"language": language}
    assert "no tests" in found.facts


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hello", "completion": "world"},
        {"prompt": "Who wrote Faust?", "completion": "Goethe."},
        {"prompt": "Give me JSON.", "completion": '{"a": 1}'},
        {"prompt": "Write a function that doubles.\n", "completion": "def double(x):\n    return 2 * x\n"},
        {"prompt": "Explain this:\ndef double(x):\n    return 2 * x\n", "completion": "It doubles x."},
    ],
)
def test_texts_are_not_recognised_as_programs(row: dict[str, str]) -> None:
    assert recognise(["prompt", "completion"], [row] * 10) is None


def test_language_of_rows_with_tests() -> None:
    names = ["prompt", "completion", "tests"]
    found = recognise(names, [JAVASCRIPT | {"tests": "assert(double(2) === 4)"}])
    assert found is not None
    assert (found.settings, "tests" in found.columns) == ({"language": "JavaScript"}, False)
    assert "Remove or rename the column 'tests'" in found.open
    text = recognise(names, [{"prompt": "Double x.", "completion": PYTHON["prompt"] + PYTHON["completion"]}])
    assert text is not None
    assert text.settings == {"language": "Python"}
    unclear = recognise(names, [{"prompt": "a b", "completion": "c d"}])
    assert unclear is not None
    assert "Set task.language" in unclear.open
