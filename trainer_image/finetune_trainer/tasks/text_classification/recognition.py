"""TextClassification: guesses which columns contain the text and the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.tasks.base import Recognised, known_name
from finetune_trainer.tasks.text_classification.rows import sorted_labels

_LABELS = ("label", "labels", "category", "class", "intent", "sentiment", "target", "topic", "tag")
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
    values = (str(row[label]).strip() for row in rows if row.get(label) is not None)
    labels = sorted_labels({value for value in values if value})
    shown = ", ".join(labels[:_SHOWN]) + (", …" if len(labels) > _SHOWN else "")
    facts = f"{len(labels)} labels in the first {len(rows):,} rows: {shown}"
    return Recognised({"text": text, "label": label}, "", facts, certain=(text, label) == ("text", "label"))


def _repeats(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether values of a column occur again, as those of a label do."""
    values = [str(row[name]) for row in rows if row.get(name) is not None]
    return 2 * len(set(values)) <= len(values)


def _by_values(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column with the fewest different values, if they repeat as labels do."""
    counts = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if all(isinstance(value, str | int | bool) for value in values):
            counts[name] = len(set(values))
    most = min(_MOST_LABELS, len(rows) // 3)
    found = [name for name, count in counts.items() if 2 <= count <= most]
    return min(found, key=lambda name: counts[name]) if found else None


def _longest(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column with the longest texts."""
    lengths = {
        name: sum(len(str(row[name])) for row in rows if isinstance(row.get(name), str))
        for name in names
        if any(isinstance(row.get(name), str) for row in rows)
    }
    return max(lengths, key=lambda name: lengths[name]) if lengths else None
