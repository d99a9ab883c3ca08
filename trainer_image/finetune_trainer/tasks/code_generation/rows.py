"""Rows of CodeGeneration: a prompt, its completion, and optionally tests. White space is content."""

from __future__ import annotations

import json
from dataclasses import dataclass

from finetune_api.tables.code import CodeLanguage
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, type_name
from finetune_trainer.prepare.readers.values import wrong_characters
from finetune_trainer.prepare.rows import text_of
from finetune_trainer.tasks.code_generation.python_tests import with_call


@dataclass(frozen=True, slots=True)
class Code:
    """A prompt, what follows it, and tests; ``tests`` are empty where there are none."""

    prompt: str
    completion: str
    tests: str
    taught: bool = False
    """Whether a teacher has written the completion."""

    @property
    def characters(self) -> int:
        return len(self.prompt) + len(self.completion) + len(self.tests)

    @property
    def content(self) -> str:
        """Without the tests, which are not learned."""
        return json.dumps([self.prompt, self.completion], ensure_ascii=False)

    @property
    def answer(self) -> str:
        """Empty, because two completions of one prompt do not contradict each other."""
        return ""

    @property
    def group(self) -> str:
        """All completions of one prompt are in the same split."""
        return self.prompt


@dataclass(frozen=True)
class CodeRows:
    """Reads rows with a prompt, a completion and tests."""

    names: tuple[str, str, str, str]
    """The columns of prompt, completion, tests and entry point."""
    language: CodeLanguage = CodeLanguage.PYTHON
    fields: tuple[str, ...] = ("prompt", "completion")

    @property
    def needed(self) -> tuple[str, ...]:
        return self.names[:2]

    @property
    def optional(self) -> tuple[str, ...]:
        return self.names[2:]

    def example(self, values: Values) -> Code:
        prompt, completion = self.source(values), text_of(values, self.names[1], self.fields[1])
        tests = self._tests(values)
        if tests and not self.language.row.runs:
            raise BadRow(
                f"column '{self.names[2]}' has tests, and task.language is {self.language}; tests run only in Python, "
                "so remove or rename the column"
            )
        return Code(prompt, completion, tests)

    def source(self, values: Values) -> str:
        """The prompt of a row, which may lack everything else."""
        return text_of(values, self.names[0], self.fields[0])

    def _tests(self, values: Values) -> str:
        """The tests as one text, with the call of ``check`` that HumanEval leaves to its readers."""
        value = values.get(self.names[2])
        listed = [value] if isinstance(value, str) else value
        if listed is None:
            return ""
        if not isinstance(listed, list | tuple):
            raise self._no_tests(type_name(value))
        for test in listed:
            if not isinstance(test, str):
                raise self._no_tests(f"{type_name(value)} with {type_name(test)}")
        tests = "\n".join(listed)
        if wrong := wrong_characters(tests):
            raise BadRow(f"column '{self.names[2]}' {wrong}")
        if not tests.strip():
            return ""
        entry = values.get(self.names[3])
        return with_call(tests, entry) if isinstance(entry, str) and entry.isidentifier() else tests

    def _no_tests(self, found: str) -> BadRow:
        return BadRow(f"column '{self.names[2]}' contains {found}, not text or a list of texts; correct the row")
