"""Rows of TextClassification with task.multiLabel: a text and a list of labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, type_name
from finetune_trainer.prepare.readers.written import written
from finetune_trainer.prepare.rows import text_of, value_of
from finetune_trainer.tasks.text_classification.rows import SEPARATORS, LabelledRows, Text, label_of

_BITS = ({"0", "1"}, {"false", "true"})


@dataclass(frozen=True, slots=True)
class MultiLabelled(Text):
    """A text with its labels, without duplicates."""

    labels: tuple[str, ...]

    @property
    def answer(self) -> str:
        return "\0".join(sorted(self.labels))


@dataclass(frozen=True)
class LabelListRows(LabelledRows):
    """Reads rows with a text column and a column of label lists."""

    separated: bool = False
    """Whether a text may be labels with a separator between them, as in CSV, which has no lists."""

    def example(self, values: Values) -> MultiLabelled:
        text = text_of(values, self.text, "text")
        cell = value_of(values, self.label, "label")
        items = labels_in(cell, self.label, self.labels if self.separated else None, separated=self.separated)
        found = [label_of(item, self.label) for item in items]
        labels = tuple(dict.fromkeys(found))
        if len(labels) < len(found) and are_bits(labels):
            raise BadRow(
                f"column '{self.label}' has a zero or a one for each label, not the labels of the row; write their "
                'names, such as ["a", "b"]'
            )
        for label in labels:
            self.check(label)
        return MultiLabelled(text, labels)


def are_bits(labels: Iterable[str]) -> bool:
    """Whether items of a list say of each label whether the row has it, as the input of a loss function does."""
    return any(bits.issuperset(labels) for bits in _BITS)


def labels_in(cell: object, column: str, known: frozenset[str] | None, *, separated: bool) -> Sequence[Any]:
    """The items of the list in a cell.

    Args:
        cell: A list, or the text of one as JSON or as pandas writes it to CSV.
        column: Name of the column, for messages.
        known: The valid labels, if they are known and may contain a separator.
        separated: Whether a text may be labels with a separator between them.

    Raises:
        BadRow: The cell is no list.
    """
    what = f"column '{column}'"
    if isinstance(cell, list | tuple):
        return cell
    if isinstance(cell, str):
        text = cell.strip()
        if text.startswith("["):
            return _listed(text, what)
        if separated:
            return _separated(text, what, known or frozenset())
    hint = "write a list of labels, or remove task.multiLabel if every row has one label"
    if cell is None:
        hint = "write [] for a row without labels"
    raise BadRow(f"{what} contains {type_name(cell)}, not a list; {hint}")


def _listed(text: str, what: str) -> list[Any]:
    found = written(text)
    if isinstance(found, list):
        return found
    raise BadRow(f'{what} begins with [ but is not a list; write it as JSON, such as ["a", "b"]')


def _separated(text: str, what: str, known: frozenset[str]) -> list[str]:
    """The labels of a text; none if it is empty."""
    if not text:
        return []
    found = [sign for sign in SEPARATORS if sign in text]
    if not found:
        return [text]
    items = [item.strip() for item in text.rstrip(f"{found[0]} ").split(found[0])]
    whole, parts = text in known, known.issuperset(items)
    if len(found) > 1 or (whole and parts):
        raise BadRow(f'{what} may be divided at several places ({text[:80]}); write it as JSON, such as ["a", "b"]')
    return [text] if whole else items
