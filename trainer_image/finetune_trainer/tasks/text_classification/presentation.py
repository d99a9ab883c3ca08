"""TextClassification in report and model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_trainer.evaluate.classification import THRESHOLD
from finetune_trainer.prepared import DataReport
from finetune_trainer.report.changes import classification_changes
from finetune_trainer.report.charts import pair_bar
from finetune_trainer.report.format import grouped, inline_code
from finetune_trainer.tasks.base import CardParts, Presentation, template_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs

_LABELS_SHOWN = 40
_LABELS_LISTED = 50
_FEW_EXAMPLES = 20
_ALWAYS_ONE = "The model always predicts one of the {} labels, even if none fits."


def baseline_note(details: Mapping[str, Any]) -> str:
    """The accuracies of both baselines, and the data on which the better one was chosen."""
    probe, majority = details.get("linearProbe"), details.get("majorityClass")
    if not majority:
        return ""
    if not probe:
        return f"Always {majority['label']!r}, because the training data has no other label."
    score = "microF1" if "microF1" in majority else "accuracy"
    always = majority["label"] if "label" in majority else _always(majority["labels"])
    return (
        f"Chosen by {details['chosenBy']}: linear probe {probe[score]:.3f} (C = {probe['C']:g}, fitted on "
        f"{grouped(probe['trainExamples'])} training examples), majority class {majority[score]:.3f} "
        f"({always}). The test split was not used for this choice."
    )


def _always(labels: Sequence[str]) -> str:
    return f"the labels of half of the training rows or more: {', '.join(labels) or 'there are none'}"


def report_section(inputs: ReportInputs, environment: Environment) -> str:
    """Precision, recall and F1 by label, confusions, and the examples that tuning fixed or broke."""
    examples = inputs.spec.evaluation.report.include_examples
    changes = classification_changes(inputs.predictions, examples=examples)
    labels = sorted(inputs.tables["labels"], key=lambda row: (-row["testExamples"], row["label"]))
    render = template_of(__package__, "report.html.jinja", environment)
    return render(changes=changes, labels=labels, labels_shown=_LABELS_SHOWN, pair_bar=pair_bar, named=_named)


def _named(labels: str | Sequence[str]) -> str:
    """The label of a row, or its list of labels."""
    return labels if isinstance(labels, str) else ", ".join(labels) or "(no label)"


def card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage, the list of labels, and labels with few training examples."""
    labels = inputs.data.labels
    render = template_of(__package__, "usage.py.jinja", environment)
    listed = ", ".join(map(inline_code, labels[:_LABELS_LISTED]))
    note = f"The labels, by index: {listed}."
    if len(labels) > _LABELS_LISTED:
        note = (
            f"The labels, by index, of which the first {_LABELS_LISTED} are {listed}; `labels.json` has all "
            f"{len(labels)}."
        )
    if inputs.data.multi_label:
        note += f" A text has each label whose probability is at least {THRESHOLD}, which may be none."
    if inputs.export.is_adapter:
        note += (
            f' `AutoPeftModelForSequenceClassification.from_pretrained(".", num_labels={len(labels)})` loads base '
            "model and adapter together; without `num_labels` it assumes two."
        )
    return CardParts(
        purpose="text classification",
        usage=render(threshold=THRESHOLD, **inputs.of_usage),
        note=note,
        limitations=[] if inputs.data.multi_label else [_ALWAYS_ONE.format(len(labels))],
        of_training=[
            f"The label {inline_code(label)} had {_few(count)}." for label, count in _smallest_labels(inputs.data)
        ],
    )


def _few(count: int) -> str:
    if not count:
        return "no training example"
    return f"only {count} training example{'s' if count > 1 else ''}"


def _smallest_labels(data: DataReport) -> list[tuple[str, int]]:
    """Up to five labels with few training examples, fewest first."""
    counts = data.splits["train"].label_counts
    few = sorted((counts.get(label, 0), label) for label in data.labels)
    return [(label, count) for count, label in few if count < _FEW_EXAMPLES][:5]


PRESENTATION = Presentation(baseline_note, report_section, card)
