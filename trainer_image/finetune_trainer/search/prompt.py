"""A prompt: an instruction with placeholders, and the examples that precede a text. The content of ``prompt.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from finetune_trainer.json_files import read_json, write_json

PROMPT_FILE = "prompt.json"

Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A training row in a prompt."""

    inputs: Mapping[str, str]
    """The texts for the placeholders."""
    answer: str
    source: str
    """Where it comes from, ``file:line``."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked about a row."""

    instruction: str
    """Text with a placeholder such as ``{text}`` for each text of a row."""
    examples: tuple[Example, ...] = ()

    def asked(self, inputs: Mapping[str, str]) -> str:
        """The message of the user about a row. Braces in the texts of the row stay as they are."""
        places = "|".join(map(re.escape, inputs))
        return re.sub(rf"\{{({places})\}}", lambda found: inputs[found[1]], self.instruction)

    def messages(self, inputs: Mapping[str, str]) -> list[Message]:
        """The conversation up to the answer about a row."""
        return [*self.before, {"role": "user", "content": self.asked(inputs)}]

    @property
    def before(self) -> list[Message]:
        """The conversation before the message about a row: the examples."""
        return [
            {"role": role, "content": content}
            for example in self.examples
            for role, content in (("user", self.asked(example.inputs)), ("assistant", example.answer))
        ]

    @property
    def alone(self) -> Prompt:
        """The instruction without examples."""
        return Prompt(self.instruction)

    def document(self) -> dict[str, Any]:
        """For ``prompt.json``."""
        return {
            "instruction": self.instruction,
            "messages": [*self.before, {"role": "user", "content": self.instruction}],
            "examples": [
                {"inputs": dict(one.inputs), "answer": one.answer, "source": one.source} for one in self.examples
            ],
        }


def write_prompt(directory: Path, prompt: Prompt, more: Mapping[str, Any]) -> None:
    """Write ``prompt.json``; ``more`` is what a program needs to use it."""
    write_json(directory / PROMPT_FILE, {**prompt.document(), **more})


def read_prompt(directory: Path) -> Prompt:
    """The prompt in ``prompt.json``."""
    document = read_json(directory / PROMPT_FILE)
    examples = (Example(one["inputs"], one["answer"], one["source"]) for one in document["examples"])
    return Prompt(document["instruction"], tuple(examples))


@dataclass(frozen=True)
class Rows:
    """Rows of a split as texts."""

    inputs: list[dict[str, str]]
    """The texts for the placeholders, of each row."""
    answers: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.answers)

    @classmethod
    def of_table(cls, table: pa.Table, placeholders: Sequence[str], labels: Sequence[str]) -> Rows:
        """The rows of a prepared split.

        Args:
            table: The split. A task with one text in a row has it in the column ``prompt``, unless there is a column of
                its own.
            placeholders: Names of the texts.
            labels: The labels in order of their index; none if the answers are texts.
        """
        columns = [table[name if name in table.column_names else "prompt"].to_pylist() for name in placeholders]
        named = labels and [labels[index] for index in table["label"].to_pylist()]
        answers = list(named) if labels else table["reference"].to_pylist()
        inputs = [dict(zip(placeholders, texts, strict=True)) for texts in zip(*columns, strict=True)]
        return cls(inputs, answers, table["source"].to_pylist())

    def example(self, index: int) -> Example:
        return Example(self.inputs[index], self.answers[index], self.sources[index])


def key_of(inputs: Mapping[str, str]) -> str:
    """What makes two rows equal."""
    return json.dumps(inputs, ensure_ascii=False, sort_keys=True)
