"""TextClassification: guesses which columns contain the text and the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.base import Recognised, known_name
from finetune_trainer.tasks.text_classification.label_lists import labels_in
from finetune_trainer.tasks.text_classification.rows import sorted_labels

_LABELS = (
    *("label", "labels", "category", "categories", "class", "classes", "intent", "intents", "sentiment", "target"),
    *("topic", "topics", "tag", "tags"),
)
_CERTAIN = ("label", "labels")
_TEXTS = ("text", "sentence", "message", "content", "utterance", "review", "comment", "body", "description", "title")
_MOST_LABELS = 100
_SHOWN = 5


def recognise(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Recognised | None:
    """See `finetune_trainer.tasks.base.Recognise`."""
    named = known_name(_LABELS, names)
    if named and named.lower() not in _CERTAIN and not _repeats(named, rows):
        named = None
    label = named or _by_values(names, rows)
    if label is None:
        return None
    others = [name for name in names if name != label]
    text = known_name(_TEXTS, others) or _longest(others, rows)
    if text is None:
        return None
    cells = [row[label] for row in rows if row.get(label) is not None]
    multiple = any(_list_of(cell) is not None for cell in cells)
    items = [item for cell in cells for item in _items(cell)]
    labels = sorted_labels({str(item).strip() for item in items if str(item).strip()})
    shown = ", ".join(labels[:_SHOWN]) + (", …" if len(labels) > _SHOWN else "")
    facts = f"{len(labels)} labels in the first {len(rows):,} rows: {shown}"
    settings = {"multiLabel": True} if multiple else {}
    certain = (text, label) == ("text", "label")
    return Recognised({"text": text, "label": label}, "", facts, certain, settings)


def _repeats(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether values of a column, or the items of its lists, occur again, as labels do."""
    values = [str(item) for row in rows if row.get(name) is not None for item in _items(row[name])]
    return 2 * len(set(values)) <= len(values)


def _by_values(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column with the fewest different values or items of lists, if they repeat as labels do."""
    counts = {}
    for name in names:
        values = [item for row in rows for item in _items(row.get(name))]
        if all(isinstance(value, str | int | bool) for value in values):
            counts[name] = len(set(values))
    most = min(_MOST_LABELS, len(rows) // 3)
    found = [name for name, count in counts.items() if 2 <= count <= most]
    return min(found, key=lambda name: counts[name]) if found else None


def _items(cell: Any) -> Sequence[Any]:
    """The labels in a cell: the items of a list, or the cell itself."""
    found = _list_of(cell)
    return [cell] if found is None else found


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
