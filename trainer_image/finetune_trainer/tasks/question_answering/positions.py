"""Where the answers stand in their context. Common to all forms."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.question_answering.rows import Answer

_SHOWN = 60

# Scripts that write no spaces between words, or attach particles to them.
_JOINED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, slots=True)
class Span:
    """A slice of the context; ``end`` is exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Placed:
    """The places of the answers of a question, in their order."""

    spans: tuple[Span, ...] = ()
    moved: int = 0
    """Answers beside whose answer_start the text stands exactly once."""
    ambiguous: int = 0
    """Answers without answer_start whose text stands several times; the first place was taken."""
    absent: int = 0
    """Answers that have no place, while another has one."""


def place(context: str, answers: Sequence[Answer]) -> Placed:
    """Find the answers in their context.

    Raises:
        BadRow: There are answers, and none has a place.
    """
    spans: dict[Span, None] = {}
    moved = ambiguous = 0
    problems = []
    for answer in answers:
        text = answer.text.strip()
        found = list(_places(context, text))
        whole = [span for span in found if is_whole(context, span)]
        start = None if answer.start is None else answer.start + len(answer.text) - len(answer.text.lstrip())
        chosen = next((span for span in whole if span.start == start), None)
        if chosen is None and (len(whole) == 1 or (whole and start is None)):
            chosen = whole[0]
            moved += start is not None
            ambiguous += len(whole) > 1
        if chosen is None:
            problems.append(_problem(context, text, answer.start, len(found), len(whole)))
        else:
            spans[chosen] = None
    if problems and not spans:
        raise BadRow(problems[0])
    return Placed(tuple(spans), moved, ambiguous, len(problems))


def is_whole(context: str, span: Span) -> bool:
    """Whether no word, number or character goes on beyond the ends of a span."""
    return not (_inside(context, span.start) or _inside(context, span.end))


def shown(text: str) -> str:
    """An answer in a message."""
    return f"'{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}'"


def _look(text: str) -> str:
    """What people see of a text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _places(context: str, text: str) -> Iterator[Span]:
    start = context.find(text)
    while start >= 0:
        yield Span(start, start + len(text))
        start = context.find(text, start + 1)


def _inside(context: str, index: int) -> bool:
    """Whether a word goes on across the boundary before ``index``."""
    if not 0 < index < len(context):
        return False
    before, after = context[index - 1], context[index]
    if unicodedata.category(after).startswith("M"):
        return True  # A combining character belongs to the one before it.
    if unicodedata.category(before).startswith("M"):
        before = next(
            (sign for sign in reversed(context[:index]) if not unicodedata.category(sign).startswith("M")), " "
        )
    if _JOINED.match(before) or _JOINED.match(after):
        return False
    return (before.isalpha() and after.isalpha()) or (before.isnumeric() and after.isnumeric())


def _problem(context: str, text: str, start: int | None, found: int, whole: int) -> str:
    if not found:
        alike = _look(text) in _look(context)
        other = ", where it has another case, white space or form of its characters" if alike else ""
        return f"the answer {shown(text)} is not in its context{other}; copy it from there"
    if not whole:
        return f"the answer {shown(text)} stands only inside a word of its context; take the whole word"
    return (
        f"the answer {shown(text)} is not at its answer_start {start}, and stands {whole} times in its context; "
        "correct answer_start"
    )
