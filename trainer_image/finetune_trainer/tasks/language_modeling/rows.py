"""Rows of LanguageModeling: a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.readers.documents import LONGEST, too_long
from finetune_trainer.prepare.rows import text_of
from finetune_trainer.tasks.base import Recognised, known_name, several

FIELD = "text"
_TEXTS = ("text", "content", "document", "body", "article", "raw_content", "story")


@dataclass(frozen=True, slots=True)
class Document:
    """The text of a document."""

    text: str

    @property
    def characters(self) -> int:
        return len(self.text)

    @property
    def content(self) -> str:
        return self.text

    @property
    def answer(self) -> str:
        return ""


@dataclass(frozen=True)
class DocumentRows:
    """Reads rows with a text column."""

    text: str

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def fields(self) -> tuple[str, ...]:
        return (FIELD,)

    @property
    def optional(self) -> tuple[str, ...]:
        return ()

    def example(self, values: Values) -> Document:
        text = text_of(values, self.text, FIELD)
        if len(text) > LONGEST:
            raise BadRow(too_long())
        return Document(text)


def recognise(names: Sequence[str], rows: Sequence[Values]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`. Other columns make it a guess, because they may be what to learn."""
    text = known_name(_TEXTS, names)
    if text is None or not several(sum(isinstance(row.get(text), str) for row in rows), len(rows)):
        return None
    return Recognised({FIELD: text}, "", "", certain=tuple(names) == (FIELD,))
