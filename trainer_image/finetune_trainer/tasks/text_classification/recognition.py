"""TextClassification: guesses which columns contain the text and the label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.base import Recognised, known_name, several
from finetune_trainer.tasks.text_classification.label_lists import are_bits, labels_in
from finetune_trainer.tasks.text_classification.rows import COMMA, SEPARATORS, is_divided, parts, sorted_labels

_LABELS = (
    *("label", "labels", "category", "categories", "class", "classes", "intent", "intents", "sentiment", "target"),
    *("topic", "topics", "tag", "tags"),
)
_COMMAS = "Column '{}' has commas between labels: write ; or | instead."
_BITS = "Column '{}' has a zero or a one for each label: write the names of the labels of a row instead."
_CERTAIN = ("label", "labels")
_TEXTS = ("text", "sentence", "message", "content", "utterance", "review", "comment", "body", "description", "title")
_WORDS = re.compile("[a-z]+")
_MOST_LABELS = 100
_SHOWN = 5


@dataclass(frozen=True)
class _Column:
    """The values of a column, which may be lists of labels."""

    values: Sequence[Any]
    """The items of all lists, or else the values; without null and empty texts."""
    multiple: bool
    separator: str = ""
    """Between the labels of a text; empty if they are written in another way."""

    @property
    def distinct(self) -> set[str]:
        return {str(value).strip() for value in self.values} - {""}

    @property
    def of_labels(self) -> bool:
        """Whether most values may be labels."""
        return 2 * sum(isinstance(value, str | int | bool) for value in self.values) > len(self.values)


def recognise(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`."""
    columns = {name: _column(name, rows) for name in names}
    named = known_name(_LABELS, names)
    if named and named.lower() not in _CERTAIN and not _repeats(columns[named]):
        named = None
    label = named or _by_values(columns, len(rows))
    if label is None:
        return None
    others = [name for name in names if name != label]
    text = known_name(_TEXTS, others) or _longest(others, rows)
    if text is None:
        return None
    column = columns[label]
    labels = sorted_labels(column.distinct)
    shown = ", ".join(f"'{name[:40]}'" for name in labels[:_SHOWN]) + (", …" if len(labels) > _SHOWN else "")
    facts = f"{len(labels)} labels in the first {len(rows):,} rows: {shown}"
    return Recognised(
        {"text": text, "label": label},
        "",
        facts,
        certain=(text, label) == ("text", "label"),
        settings={"multiLabel": True} if column.multiple else {},
        open=_open(column).format(label[:40]),
    )


def _open(column: _Column) -> str:
    if column.separator == COMMA:
        return _COMMAS
    items = {value.lower() for value in column.distinct}
    return _BITS if column.multiple and items and are_bits(items) else ""


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> _Column:
    cells = [
        cell for row in rows if (cell := row.get(name)) is not None and (not isinstance(cell, str) or cell.strip())
    ]
    lists = [_list_of(cell) for cell in cells]
    if several(sum(found is not None for found in lists), len(cells)):
        both = zip(cells, lists, strict=True)
        return _Column([item for cell, found in both for item in ([cell] if found is None else found)], multiple=True)
    texts = Counter(cell for cell in cells if isinstance(cell, str))
    for sign in (*SEPARATORS, COMMA):
        combined = sum(count for text, count in texts.items() if sign in text)
        if several(combined, len(cells)) and is_divided(texts, sign):
            items = [part for text, count in texts.items() for part in parts(text, sign) * count]
            return _Column(items, multiple=True, separator=sign)
    return _Column(cells, multiple=False)


def _repeats(column: _Column) -> bool:
    """Whether values occur again, as labels do."""
    return 2 * len(column.distinct) <= len(column.values)


def _by_values(columns: Mapping[str, _Column], rows: int) -> str | None:
    """The column whose values repeat as labels do: with a word for labels in its name, with lists, or with the fewest
    different ones."""
    most = min(_MOST_LABELS, rows // 3)
    found = [name for name, column in columns.items() if column.of_labels and 2 <= len(column.distinct) <= most]

    def rank(name: str) -> tuple[bool, bool, int]:
        column = columns[name]
        return set(_LABELS).isdisjoint(_WORDS.findall(name.lower())), not column.multiple, len(column.distinct)

    return min(found, key=rank, default=None)


def _list_of(cell: Any) -> Sequence[Any] | None:
    """A list, also one that is written as text; None if the cell is none."""
    if not isinstance(cell, list | tuple) and not (isinstance(cell, str) and cell.lstrip().startswith("[")):
        return None
    try:
        return labels_in(cell, "", None, separated=False)
    except BadRow:
        return None


def _longest(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column with the longest texts."""
    lengths = {
        name: sum(len(str(row[name])) for row in rows if isinstance(row.get(name), str))
        for name in names
        if any(isinstance(row.get(name), str) for row in rows)
    }
    return max(lengths, key=lambda name: lengths[name]) if lengths else None
