"""CodeGeneration in the prepare stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint.messages import Question
from finetune_trainer.prepare.arrays import texts
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import UNANSWERED, Example, RowSchema, check_headers
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.prepare.splits import TEST
from finetune_trainer.sandbox.programs import OnPrograms, Sandbox
from finetune_trainer.tasks.code_generation.checking import run_tests
from finetune_trainer.tasks.code_generation.parsing import parser_of
from finetune_trainer.tasks.code_generation.python_tests import wrong_tests
from finetune_trainer.tasks.code_generation.rows import Code, CodeRows
from finetune_trainer.tasks.code_generation.stopping import is_fenced, stop_of
from finetune_trainer.tasks.code_generation.teaching import OpenCode, question, with_answer

_LISTED = 3


class CodeEncoder(Protocol):
    """Tokenises prompts and completions for the models of one family."""

    prefix: str
    """What the model sees before each prompt."""
    notes: tuple[str, ...]
    """What the user should know about the model."""

    @property
    def answers(self) -> AnswerTokens:
        """Tokens of the completions so far."""

    @property
    def fields(self) -> list[pa.Field]:
        """The Arrow fields of the columns that ``encode`` returns."""

    def encode(self, sources: Sequence[str], targets: Sequence[str]) -> Encoded:
        """Tokenise prompts and completions."""


class CodePreparation:
    """Implements `finetune_trainer.tasks.base.Preparation`, `finetune_trainer.tasks.base.RunsPrograms` and
    `finetune_trainer.tasks.teachable.Teachable`.
    """

    labels: tuple[str, ...] = ()
    rows = ""

    def __init__(self, spec: FineTuneJobSpec, encoder: CodeEncoder) -> None:
        self._spec = spec
        self._encoder = encoder
        self._language = spec.task.language
        self._stop = stop_of(self._language)
        self._parses = parser_of(self._language)
        self._sandbox: tuple[Sandbox, OnPrograms] | None = None
        self._open = False
        """Whether a teacher writes the completions of the dataset that is read."""
        self._tested: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {"untested": [], "fenced": [], "cut": [], "wrong": []}
        self._rows: Counter[str] = Counter()
        self._runs = any(metric.row.passes_of for metric in spec.metrics)
        self.prefix = encoder.prefix

    def run_with(self, sandbox: Sandbox, on_programs: OnPrograms) -> None:
        self._sandbox = sandbox, on_programs

    @property
    def fields(self) -> list[pa.Field]:
        return [*self._encoder.fields, pa.field("tests", pa.string())]

    @property
    def answers(self) -> AnswerTokens:
        return self._encoder.answers

    def row_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = rows_of(self._spec)
        check_headers(files, schema)
        return schema

    def open_schema(self, files: Sequence[DataFile]) -> RowSchema:
        schema = OpenCode(rows_of(self._spec))
        check_headers(files, schema)
        self._open = True
        return schema

    def asked(self, examples: Sequence[Example]) -> list[Example]:
        return [Code(example.prompt, UNANSWERED, tests="") for example in examples if isinstance(example, Code)]

    def questions(self, examples: Sequence[Example]) -> list[Question]:
        return [question(self._spec, example) for example in examples if isinstance(example, Code)]

    def with_answer(self, example: Example, answer: str) -> Code:
        assert isinstance(example, Code)
        return with_answer(self._spec, example, answer)

    def encode(self, examples: Sequence[Example]) -> Encoded:
        rows = [example for example in examples if isinstance(example, Code)]
        encoded = self._encoder.encode([row.prompt for row in rows], [row.completion for row in rows])
        kept = [index for index in range(len(rows)) if index not in encoded.problems]
        found = self._problems([rows[index] for index in kept])
        passed = [position for position in range(len(kept)) if position not in found]
        problems = encoded.problems | {kept[position]: problem for position, problem in found.items()}
        columns = {name: values.take(pa.array(passed, pa.int64())) for name, values in encoded.columns.items()}
        columns["tests"] = texts([rows[kept[position]].tests for position in passed])
        return Encoded(columns, np.zeros(len(passed), np.bool_), problems, tokens=encoded.tokens)

    def _problems(self, rows: Sequence[Code]) -> dict[int, BadRow]:
        """What is wrong with the tests of rows, by the index of the row."""
        found = {index: problem for index, row in enumerate(rows) if row.tests and (problem := wrong_tests(row.tests))}
        if self._sandbox is not None and not self._open:
            rest = [index for index in range(len(rows)) if index not in found]
            ran = run_tests([rows[index] for index in rest], self._stop, *self._sandbox)
            found |= {rest[position]: problem for position, problem in ran.items()}
        return found

    def end_data_set(self, uri: str) -> None:
        """Nothing to check: every row is checked by itself."""
        self._open = False

    def finish(self, batch: pa.RecordBatch, split: str, label_counts: Counter[str]) -> pa.RecordBatch:
        for row in batch.select(["prompt", "reference", "tests", "source"]).to_pylist():
            self._rows[split] += 1
            self._tested[split] += bool(row["tests"])
            if row["reference"] == UNANSWERED:
                continue
            reference = row["reference"]
            counted = self._stop.answer(row["prompt"], reference)
            fenced = is_fenced(reference, counted)
            program = self._stop.program(row["prompt"], counted if fenced else reference)
            for name, applies in (
                ("untested", split == TEST and not row["tests"]),
                ("fenced", fenced),
                ("cut", not fenced and counted.strip() != reference.strip()),
                ("wrong", self._parses and not self._parses(program)),
            ):
                if applies:
                    self._places[name].append(row["source"])
        return batch

    def notes(self, label_counts: Mapping[str, int]) -> list[str]:
        """Raises:
        StageFailure: BadData when evaluation.metrics needs test rows with tests, and there are none.
        """
        check_tested(self._spec, self._tested[TEST])
        sentences = {
            "wrong": "completions have a syntax error after their prompt",
            "fenced": "completions have a Markdown fence: the model learns to write it, and its content is what counts",
            "cut": "completions go on after the block of their prompt, which ends an answer",
        }
        if self._runs:
            sentences["untested"] = "test rows have no tests and do not count in pass@k"
        return [
            *self._encoder.notes,
            *(self._note(name, sentence) for name, sentence in sentences.items() if self._places[name]),
        ]

    def _note(self, name: str, sentence: str) -> str:
        places = sorted(self._places[name], key=_file_and_line)
        listed = ", ".join(places[:_LISTED]) + (", …" if len(places) > _LISTED else "")
        rows = self._rows[TEST] if name == "untested" else self._rows.total()
        return f"{len(places):,} of {rows:,} {sentence} ({listed})"


def _file_and_line(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (place, 0)


def rows_of(spec: FineTuneJobSpec) -> CodeRows:
    """How the rows of a job are read."""
    name = spec.dataset.columns.name
    return CodeRows((name("prompt"), name("completion"), name("tests"), name("entry_point")), spec.task.language)


def check_tested(spec: FineTuneJobSpec, tested: int) -> None:
    """Check that a metric that runs programs has something to run.

    Args:
        spec: The spec of the job.
        tested: Number of the test rows with tests.

    Raises:
        StageFailure: BadData when it has not.
    """
    running = [metric for metric in spec.metrics if metric.row.passes_of]
    if running and not tested:
        raise StageFailure(
            Reason.BAD_DATA,
            f"No row of the test split has tests, so {running[0]} measures nothing: add a column with tests, set "
            f"dataset.columns.tests, or name other metrics in evaluation.metrics",
        )
