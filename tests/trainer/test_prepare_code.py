"""CodeGeneration in the prepare stage: white space of tokenizers and templates, and tests that run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prepare_fixtures import a_context, json_lines, prepared, refused, stored
from transformers import PreTrainedTokenizerFast

from finetune_api.failures import Reason
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.code_generation.causal import decode_code
from tests.trainer.code_models import (
    CHAT_TEMPLATE,
    TRIMMING_TEMPLATE,
    byte_level_tokenizer,
    marking_tokenizer,
    save_llama_with,
)
from tests.trainer.pair_models import save_t5_with, word_tokenizer

TASK = {"type": "CodeGeneration"}
PROMPT, COMPLETION, TESTS = "def double(x):\n", "    return 2 * x\n", "assert double(3) == 6\n"
ROW = {"prompt": PROMPT, "completion": COMPLETION, "tests": TESTS}
ASKED = f"<user>Write the Python code that comes next, and nothing else.\n\n{PROMPT}<bot>"
WEAK: tuple[dict[str, str], ...] = (
    {},
    {"tests": ""},
    {"tests": "assert True\n"},
    {"tests": "def test_double():\n    assert double(3) == 6\n"},
    {"tests": "def check(candidate):\n    assert candidate(3) == 6\n"},
    {"tests": "try:\n    assert double(3) == 6\nexcept Exception:\n    pass\n"},
    {"completion": "    return 3 * x\n"},
    {"tests": "assert double(3) = 6\n"},
    {"completion": "    return x + x\n", "tests": "assert double(4) == 8\n"},
)
"""Rows of case 19."""


def context_for(root: Path, tokenizer: PreTrainedTokenizerFast, rows: Any, seq2seq: bool = False, **spec: Any) -> Any:
    if seq2seq:
        save_t5_with(root / "base", tokenizer, width=64)
    else:
        save_llama_with(root / "base", tokenizer)
    uri = {"uri": json_lines(root / "rows.jsonl", rows)}
    cleaning = {"deduplicate": "None", "dropInvalid": spec.pop("drop", 0.0)}
    dataset = {"train": uri, "validation": uri, "test": uri | {"minimumExamples": 1}, "cleaning": cleaning}
    training = {"maxSequenceLength": 128, "maxSteps": 20}
    task = TASK | spec.pop("task", {})
    return a_context(root, (root / "base").as_uri(), task, dataset, training=training, **spec)


@pytest.mark.parametrize(
    ("tokenizer", "prompt"),
    [
        (byte_level_tokenizer([PROMPT + COMPLETION]), PROMPT),
        (byte_level_tokenizer([PROMPT], CHAT_TEMPLATE), ASKED),
        (byte_level_tokenizer([PROMPT], TRIMMING_TEMPLATE), PROMPT),
        (marking_tokenizer(), PROMPT),
    ],
    ids=["plain", "chat", "trimming", "marking"],
)  # fmt: skip
def test_code_comes_back_from_its_tokens(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
    context = context_for(tmp_path, tokenizer, [ROW])
    _, report = prepared(context)
    (row,) = open_split(stored(context), "train").to_pylist()
    read = load_prepared_tokenizer(stored(context))
    *code, end = [token for token in row["labels"] if token != -100]
    assert decode_code(read)([code]) == [COMPLETION]
    assert read.decode(row["input_ids"][: row["prompt_length"]]).removeprefix(" ") == prompt
    assert end == read.eos_token_id
    noted = "strips white space, which is content in code" in " ".join(report.notes)
    assert noted is (tokenizer.chat_template == TRIMMING_TEMPLATE)


@pytest.mark.parametrize("seq2seq", [False, True])
def test_a_tokenizer_that_folds_white_space_is_refused(tmp_path: Path, seq2seq: bool) -> None:
    failure = refused(context_for(tmp_path, word_tokenizer([PROMPT + COMPLETION]), [ROW], seq2seq))
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert "does not keep white space, which is content in code: '    return x' comes back as" in failure.message


@pytest.mark.parametrize("seq2seq", [False, True])
def test_a_long_row_is_invalid_and_not_cut(tmp_path: Path, seq2seq: bool) -> None:
    rows = [ROW, ROW | {"completion": "    y = 'öäü§€'\n" * 40}, ROW | {"prompt": "# öäü§€\n" * 60}]
    failure = refused(context_for(tmp_path, byte_level_tokenizer([PROMPT]), rows, seq2seq))
    assert "tokens" in failure.message
    assert "the sequence length of 128" in failure.message
    assert "rows.jsonl:2: " in failure.message
    assert "at :3" in failure.message


def test_an_instruction_precedes_the_prompt(tmp_path: Path) -> None:
    context = context_for(tmp_path, byte_level_tokenizer([PROMPT]), [ROW], task={"instruction": "Go on."})
    prepared(context)
    (row,) = open_split(stored(context), "train").to_pylist()
    read = load_prepared_tokenizer(stored(context))
    assert read.decode(row["input_ids"][: row["prompt_length"]]) == f"Go on.\n\n{PROMPT}"
    assert row["prompt"] == PROMPT


class TestWeakTests:
    """Case 19."""

    def context(self, root: Path, allowed: bool, drop: float) -> Any:
        evaluation = {"allowCodeExecution": True, "metrics": ["pass_at_1"]} if allowed else {}
        rows = [ROW | change for change in WEAK]
        return context_for(root, byte_level_tokenizer([PROMPT]), rows, drop=drop, evaluation=evaluation)

    def test_all_are_named_where_none_may_be_dropped(self, tmp_path: Path) -> None:
        failure = refused(self.context(tmp_path, allowed=True, drop=0.0))
        assert "rows.jsonl:3: the tests pass without the completion" in failure.message
        assert "6 of 9 rows are invalid" in failure.message
        assert "6 of 9 rows" in failure.message
        assert [f":{line}" for line in range(4, 8) if f":{line}" not in failure.message] == []

    def test_only_the_others_count(self, tmp_path: Path) -> None:
        context = self.context(tmp_path, allowed=True, drop=0.9)
        _, report = prepared(context)
        table = open_split(stored(context), "test").to_pylist()
        assert [row["source"] for row in table if row["tests"]] == ["rows.jsonl:1", "rows.jsonl:9"]
        problems = {row.line: row.problem for row in report.invalid_rows}
        assert sorted(problems) == [3, 4, 5, 6, 7, 8]
        assert "the completion fails its tests (AssertionError" in problems[7]
        assert "assert double(3) == 6" in problems[7]
        assert any("test rows have no tests and do not count in pass@k (rows.jsonl:2)" in note for note in report.notes)

    def test_without_execution_reading_tells(self, tmp_path: Path) -> None:
        _, report = prepared(self.context(tmp_path, allowed=False, drop=0.9))
        assert sorted({row.line for row in report.invalid_rows}) == [4, 5, 8]


def test_pass_at_1_needs_tests(tmp_path: Path) -> None:
    row = {"prompt": PROMPT, "completion": COMPLETION}
    evaluation = {"allowCodeExecution": True}
    failure = refused(context_for(tmp_path, byte_level_tokenizer([PROMPT]), [row], evaluation=evaluation))
    assert failure.reason is Reason.BAD_DATA
    assert "No row of the test split has tests, so pass_at_1 measures nothing" in failure.message


def test_humaneval_and_mbpp_pass_their_own_tests(tmp_path: Path) -> None:
    check = "def check(candidate):\n    assert candidate(3) == 6\n"
    rows = [
        ROW | {"tests": check, "entry_point": "double"},
        {
            "prompt": "Write a function to double a number.",
            "completion": f"{PROMPT}{COMPLETION}".replace("\n", "\r\n"),
            "tests": ["assert double(3) == 6", "assert double(0) == 0"],
        },
        {"prompt": "Double it.", "completion": f"Sure:\n```\n{PROMPT}{COMPLETION}```\nDone.", "tests": TESTS},
    ]
    evaluation = {"allowCodeExecution": True}
    context = context_for(tmp_path, byte_level_tokenizer([PROMPT]), rows, evaluation=evaluation)
    _, report = prepared(context)
    assert report.invalid == 0
    assert list(report.notes) == [
        "3 of 9 completions have a Markdown fence: the model learns to write it, and its content is what counts "
        "(rows.jsonl:3, rows.jsonl:3, rows.jsonl:3)"
    ]
