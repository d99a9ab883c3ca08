"""Code that a teacher writes, which is usually in a Markdown fence."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint.messages import Question
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.rows import UNANSWERED, OpenSchema
from finetune_trainer.tasks.code_generation.parsing import parser_of
from finetune_trainer.tasks.code_generation.rows import Code, CodeRows
from finetune_trainer.tasks.code_generation.stopping import stop_of
from finetune_trainer.tasks.code_generation.texts import instruction

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})(?P<info>[^\n`]*)(?:\n|\Z)", re.MULTILINE)


@dataclass(frozen=True)
class OpenCode(OpenSchema[CodeRows]):
    """Reads rows whose completion does not count, because a teacher writes it; they may lack it."""

    def example(self, values: Values) -> Code:
        return self.schema.example({**values, self.schema.needed[1]: UNANSWERED})


def question(spec: FineTuneJobSpec, row: Code) -> Question:
    """What the teacher is asked: what a student with a chat template is."""
    asked = instruction(spec, chat_template="")
    return Question([{"role": "user", "content": f"{asked}\n\n{row.prompt}" if asked else row.prompt}])


def with_answer(spec: FineTuneJobSpec, row: Code, answer: str) -> Code:
    """``row`` with the code of an answer as its completion.

    Raises:
        BadRow: The answer has no code, or more than one piece of it, or a syntax error.
    """
    code = code_of(answer)
    if code.startswith(row.prompt):
        code = code[len(row.prompt) :]
    if not code.strip():
        raise BadRow("the answer has no code besides its prompt")
    language = spec.task.language
    stop, parses = stop_of(language), parser_of(language)
    if parses and not parses(stop.program(row.prompt, stop.answer(row.prompt, code))):
        raise BadRow(f"the answer is no {language.row.title} after its prompt, or has a syntax error")
    return replace(row, completion=code, taught=True)


def code_of(answer: str) -> str:
    """The content of the Markdown fence in an answer, to the character; all of an answer without one.

    Raises:
        BadRow: There are several fences, or one has no end.
    """
    blocks = []
    at = 0
    while opened := _FENCE.search(answer, at):
        closed = _closing(answer, opened)
        if closed is None:
            raise BadRow("the fenced block of code in the answer does not end")
        indent = re.compile(rf"^[ \t]{{1,{len(opened['indent'])}}}", re.MULTILINE) if opened["indent"] else None
        content = answer[opened.end() : closed.start()]
        blocks.append(indent.sub("", content) if indent else content)
        at = closed.end()
    if len(blocks) > 1:
        raise BadRow(f"the answer has {len(blocks)} fenced blocks of code, not one")
    return blocks[0] if blocks else answer


def _closing(answer: str, opened: re.Match[str]) -> re.Match[str] | None:
    """The line that ends a fence: the same signs, at least as many, and nothing else."""
    return next(
        (
            line
            for line in _FENCE.finditer(answer, opened.end())
            if line["marks"].startswith(opened["marks"]) and not line["info"].strip()
        ),
        None,
    )
