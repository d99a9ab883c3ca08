"""Rows of TextClassification: a text and its label."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.rows import Example, checked, text_of, value_of

MOST_LABELS = 1024
"""Maximum number of labels in the data; more of them mean that the column does not contain labels."""

_MISSING = frozenset({"nan", "NaN", "None", "null", "NULL", "N/A", "n/a", "<NA>", "NaT"})
"""What programs write for a value that is not there."""
SEPARATORS = (";", "|")
"""Between the labels of a cell of CSV."""
COMMA = ","
"""What people write between labels as well. It separates nothing, because it occurs in labels, too."""
_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:[.,]0{1,2})?")


@dataclass(frozen=True, slots=True)
class Text:
    """What an example with one label and one with several have in common."""

    text: str

    @property
    def characters(self) -> int:
        return len(self.text)

    @property
    def content(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Labelled(Text):
    """A text with its label."""

    label: str

    @property
    def answer(self) -> str:
        return self.label


@dataclass(frozen=True, slots=True)
class Unlabelled(Text):
    """A text without labels, until a teacher has labelled it."""

    answer: str = ""


@dataclass(frozen=True)
class LabelledRows:
    """Reads rows with a text column and a label column; ``labels`` are the valid labels, None accepts all."""

    text: str
    label: str
    labels: frozenset[str] | None
    label_origin: str = "task.labels"

    @property
    def needed(self) -> tuple[str, ...]:
        return self.text, self.label

    @property
    def fields(self) -> tuple[str, ...]:
        return "text", "label"

    @property
    def optional(self) -> tuple[str, ...]:
        return ()

    def example(self, values: Values) -> Example:
        text = text_of(values, self.text, "text")
        value = value_of(values, self.label, "label")
        if isinstance(value, list | tuple):
            raise BadRow(
                f"column '{self.label}' contains a list; set task.multiLabel to true if a row has any number of labels"
            )
        label = label_of(value, self.label)
        self.check(label)
        return Labelled(text, label)

    def check(self, label: str) -> None:
        """Check that ``label`` is valid.

        Raises:
            BadRow: It is not.
        """
        if self.labels is not None and label not in self.labels:
            raise BadRow(_unknown_label(label, self.labels, self.label_origin))


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort labels: by value if all are integers, otherwise as text."""
    listed = list(labels)
    if all(label.removeprefix("-").isdecimal() for label in listed):
        return tuple(sorted(listed, key=lambda label: (int(label), label)))
    return tuple(sorted(listed))


def label_notes(counts: Mapping[str, int]) -> list[str]:
    """Clauses about labels that are probably mistakes.

    Args:
        counts: Examples by label.
    """
    notes = []
    variants: defaultdict[str, list[str]] = defaultdict(list)
    for label in counts:
        variants[_look(label)].append(label)
    for labels in variants.values():
        if len(labels) > 1:
            listed = " and ".join(f"'{_distinct(label)[:40]}' ({counts[label]:,})" for label in labels)
            notes.append(f"labels {listed} differ only in case, white space or characters that look the same")
    missing = [f"'{label}' ({counts[label]:,})" for label in counts if label in _MISSING]
    if missing:
        one = len(missing) == 1
        notes.append(
            f"label{' ' if one else 's '}{' and '.join(missing)} {'looks' if one else 'look'} like a missing value; "
            "remove the rows if it is one"
        )
    single = [label for label, count in counts.items() if count == 1]
    if single:
        shown = ", ".join(f"'{label[:40]}'" for label in single[:2]) + (", …" if len(single) > 2 else "")
        notes.append(f"{len(single):,} label{'s' if len(single) > 1 else ''} with a single row: {shown}")
    return notes


def _look(label: str) -> str:
    """What people see of a label, without case and white space."""
    normal = unicodedata.normalize("NFKC", label).casefold()
    return "".join(sign for sign in normal if not sign.isspace() and unicodedata.category(sign) != "Cf")


def _distinct(label: str) -> str:
    """A label with escapes, if others that look the same are written without."""
    plain = label.isprintable() and unicodedata.is_normalized("NFKC", label)
    return label if plain else label.encode("unicode_escape").decode()


def parts(label: str, sign: str) -> list[str]:
    """What is between the separators ``sign``."""
    return [part for piece in label.split(sign) if (part := piece.strip())]


def is_divided(labels: Iterable[str], sign: str) -> bool:
    """Whether labels with ``sign`` are probably lists of labels: there are at least two of them, and most of their
    parts are labels, or parts of other labels, as well."""
    divided = {label: set(parts(label, sign)) for label in labels}
    places = Counter(part for found in divided.values() for part in found)
    combined = [found for found in divided.values() if len(found) > 1]
    shared = [places[part] > 1 for found in combined for part in found]
    return len(combined) > 1 and 2 * sum(shared) > len(shared)


def divided_label(labels: Collection[str]) -> tuple[str, str] | None:
    """A label that is probably a list of labels, and the separator in it; None if there is none."""
    sign = next((sign for sign in (*SEPARATORS, COMMA) if is_divided(labels, sign)), None)
    if sign is None:
        return None
    # The one with the best known parts is the best example.
    return min((label for label in labels if sign in label), key=lambda label: _unknown(label, sign, labels)), sign


def _unknown(label: str, sign: str, labels: Collection[str]) -> tuple[int, str]:
    return sum(part not in labels for part in parts(label, sign)), label


def same_number(labels: Iterable[str]) -> tuple[str, str] | None:
    """Two labels that are one whole number in different forms, such as ``1``, ``1.0`` and ``1,0``; None if none are."""
    forms: dict[int, str] = {}
    for label in sorted(labels):
        if whole := _WHOLE_NUMBER.fullmatch(label):
            first = forms.setdefault(int(whole[1]), label)
            if first != label:
                return first, label
    return None


def label_of(value: object, column: str) -> str:
    """A label as text.

    Raises:
        BadRow: The value is not a label.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isnan(value):
        raise BadRow(f"column '{column}' is empty; fill it in or remove the row")
    if isinstance(value, float) and value.is_integer():
        # pandas stores whole numbers as floats where a value is missing.
        return str(int(value))
    if isinstance(value, float):
        raise BadRow(
            f"column '{column}' contains the number {value}, which is not a valid label; use text or an integer, "
            "because TextClassification learns no quantities"
        )
    return checked(value, f"column '{column}'").strip()


def _unknown_label(label: str, labels: frozenset[str], origin: str) -> str:
    near = difflib.get_close_matches(label, sorted(labels), n=1)
    if not near:
        near = [name for name in sorted(labels) if name.casefold() == label.casefold()]
    if any(name.strip() == label for name in labels):
        hint = "it is there with white space around it, which labels of the data have not; remove it there"
    elif near:
        hint = f"did you mean '{near[0]}'?"
    else:
        shown = [f"'{name}'" for name in sorted_labels(labels)[:8]]
        hint = f"use one of {', '.join(shown)}" + (", …" if len(labels) > 8 else "")
    return f"label '{label[:80]}' is not in {origin}; {hint}"
