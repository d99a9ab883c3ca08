"""Rows of QuestionAnswering: a question, the text that has its answer, and the answers. Common to all forms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, type_name
from finetune_trainer.prepare.readers.written import written
from finetune_trainer.prepare.rows import checked, text_of, truth_of

ID, TITLE, IMPOSSIBLE, START = "id", "title", "is_impossible", "answer_start"
"""Columns of SQuAD that are read where a row has them; the last one if the answers are texts alone."""

_OBJECT = re.compile(r"""\s*\{\s*['"](text|answer_start)['"]\s*:""")
_NUMBER = re.compile(r"[0-9]{1,9}(\.0)?")
_FORMS = 'write {"text": [...], "answer_start": [...]}, a list of texts, or one text'


@dataclass(frozen=True, slots=True)
class Answer:
    """One right answer, and the index of its first character in the context, if the row says it."""

    text: str
    start: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question; without ``answers``, its context does not have the answer."""

    question: str
    context: str
    answers: tuple[Answer, ...]
    title: str = ""
    id: str = ""

    @property
    def characters(self) -> int:
        return len(self.question) + len(self.context)

    @property
    def content(self) -> str:
        return f"{self.question}\0{self.context}"

    @property
    def answer(self) -> str:
        return "\0".join(sorted({answer.text for answer in self.answers}))

    @property
    def group(self) -> str:
        """All questions of one article, or else of one context, are in the same split."""
        return self.title or self.context


class QuestionRows:
    """Reads rows with a question, a context and answers.

    ``answered`` tells whether a row had the column of the answers: a row of JSON lines without it has no answer.
    """

    fields = ("question", "context", "answers")
    optional = (ID, TITLE, IMPOSSIBLE, START)

    def __init__(self, question: str, context: str, answers: str) -> None:
        self.needed = (question, context, answers)
        self.answered = False

    def example(self, values: Values) -> Question:
        name = _text(values.get(ID))
        try:
            return self._example(values, name)
        except BadRow as problem:
            raise named(problem, name) from None

    def _example(self, values: Values, name: str) -> Question:
        question, context, answers = self.needed
        self.answered = self.answered or answers in values
        found = _with_start(answers_of(values.get(answers), answers), values.get(START))
        impossible = truth_of(values.get(IMPOSSIBLE))
        if found and impossible:
            raise BadRow(f"column '{IMPOSSIBLE}' is true, but there are answers; remove them, or correct it")
        if not found and impossible is False:
            raise BadRow(f"column '{IMPOSSIBLE}' is false, but there is no answer; add one, or write true")
        return Question(
            question=text_of(values, question, "question"),
            context=text_of(values, context, "context"),
            answers=found,
            title=_text(values.get(TITLE)),
            id=name,
        )


class OpenQuestions:
    """Reads rows whose answers do not count, because a teacher writes them; they may lack them."""

    def __init__(self, schema: QuestionRows) -> None:
        question, context, answers = schema.needed
        self._names = question, context
        self.needed = self._names
        self.fields = schema.fields[:2]
        self.optional = (answers, ID, TITLE)

    def example(self, values: Values) -> Question:
        question, context = self._names
        return Question(
            question=text_of(values, question, "question"),
            context=text_of(values, context, "context"),
            answers=(),
            title=_text(values.get(TITLE)),
            id=_text(values.get(ID)),
        )


def named(problem: BadRow, name: str) -> BadRow:
    """``problem`` with the id of its question, if it has one."""
    return BadRow(f"{problem} (question {name[:60]})") if name else problem


def answers_of(value: Any, column: str) -> tuple[Answer, ...]:
    """The answers in a cell; none if it is empty.

    Raises:
        BadRow: The cell has another form.
    """
    what = f"column '{column}'"
    if isinstance(value, str):
        value = _decoded(value, what)
    if value is None:
        return ()
    if isinstance(value, str):
        return (Answer(checked(value, what)),) if value.strip() else ()
    if isinstance(value, Mapping):
        answers = _columns(value, what)
    elif isinstance(value, Sequence):
        answers = [_item(item, what) for item in value]
    else:
        raise BadRow(f"{what} contains {type_name(value)}; {_FORMS}")
    filled = [answer for answer in answers if answer.text.strip()]
    if filled and len(filled) < len(answers):
        raise BadRow(f"{what} contains an empty answer beside others; remove it")
    return tuple(Answer(checked(answer.text, what), answer.start) for answer in filled)


def _decoded(value: str, what: str) -> Any:
    """The list or object of answers that is written in a text, or else the text."""
    found = written(value)
    if isinstance(found, dict) and "text" in found:
        return found
    if isinstance(found, list) and all(isinstance(item, str | dict) for item in found):
        return found
    if _OBJECT.match(value):
        raise BadRow(f"{what} begins as an object with answers but is not valid JSON; {_FORMS}")
    return value


def _columns(value: Mapping[str, Any], what: str) -> list[Answer]:
    """The answers of SQuAD's form in data sets of the Hub, ``{"text": […], "answer_start": […]}``."""
    if not value:
        return []
    if "text" not in value:
        raise BadRow(f"{what} contains an object without the key 'text'; {_FORMS}")
    texts, starts = _listed(value["text"]), _listed(value.get("answer_start"))
    if starts and len(starts) != len(texts):
        raise BadRow(f"{what} has {len(texts)} texts and {len(starts)} answer_start; correct the row")
    return [_answer(text, start, what) for text, start in zip(texts, starts or [None] * len(texts), strict=True)]


def _item(item: Any, what: str) -> Answer:
    if isinstance(item, Mapping):
        return _answer(item.get("text"), item.get("answer_start"), what)
    return _answer(item, None, what)


def _answer(text: Any, start: Any, what: str) -> Answer:
    if not isinstance(text, str):
        raise BadRow(f"{what} contains {type_name(text)} as the text of an answer; {_FORMS}")
    return Answer(text, _index(start, what))


def _index(start: Any, what: str) -> int | None:
    if isinstance(start, float) and start.is_integer():
        return int(start)  # pandas stores whole numbers as floats where a value is missing.
    if start is None or (isinstance(start, int) and not isinstance(start, bool)):
        return start
    raise BadRow(f"{what} has {type_name(start)} as answer_start; write the index of the first character")


def _with_start(answers: tuple[Answer, ...], starts: Any) -> tuple[Answer, ...]:
    """``answers`` with the indices of a column of their own, if they have none and there is one for each."""
    if isinstance(starts, str):
        starts = float(starts) if _NUMBER.fullmatch(starts.strip()) else written(starts)
    listed = _listed(starts)
    if len(listed) != len(answers) or any(answer.start is not None for answer in answers):
        return answers
    return tuple(
        replace(answer, start=_index(start, f"column '{START}'")) for answer, start in zip(answers, listed, strict=True)
    )


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _text(value: Any) -> str:
    """A text or a number as text; empty for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""
