"""Texts that a teacher labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.endpoint.labels import label_of, labels_of
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values
from finetune_trainer.prepare.rows import Example, OpenSchema, text_of
from finetune_trainer.tasks.text_classification.label_lists import MultiLabelled
from finetune_trainer.tasks.text_classification.rows import Labelled, LabelledRows, Unlabelled

_SHOWN = 60


@dataclass(frozen=True)
class OpenLabels(OpenSchema[LabelledRows]):
    """Reads rows that may lack their labels, because a teacher labels them."""

    def example(self, values: Values) -> Example:
        try:
            return self.schema.example(values)
        except BadRow:
            return Unlabelled(text_of(values, self.schema.text, "text"))


def instruction(labels: Sequence[str], *, multi_label: bool = False) -> str:
    """What a model is asked that classifies a text by writing."""
    listed = ", ".join(labels)
    if multi_label:
        return f"Classify the text. Answer with a JSON list of the labels that it has, [] for none, of: {listed}."
    return f"Classify the text. Answer with one of: {listed}."


def labels_in(answer: str, labels: Sequence[str], *, multi_label: bool) -> list[int] | None:
    """The indices of the labels in an answer, one without ``multi_label``; None if it is something else."""
    if multi_label:
        return labels_of(answer, labels)
    index = label_of(answer, labels)
    return None if index is None else [index]


def with_answer(text: str, answer: str, labels: Sequence[str], *, multi_label: bool) -> Labelled | MultiLabelled:
    """A text with the labels of an answer.

    Raises:
        BadRow: The answer is something else.
    """
    shown = answer.strip()
    shown = f"'{shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''}'"
    found = labels_in(answer, labels, multi_label=multi_label)
    if found is None:
        raise BadRow(f"the answer is no {'list of labels' if multi_label else 'label'} ({shown})")
    names = tuple(labels[index] for index in found)
    return MultiLabelled(text, names) if multi_label else Labelled(text, names[0])
