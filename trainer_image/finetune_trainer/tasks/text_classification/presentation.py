"""TextClassification in report and model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_trainer.prepared import DataReport
from finetune_trainer.report.changes import classification_changes
from finetune_trainer.report.charts import recall_bar
from finetune_trainer.report.format import grouped, inline_code
from finetune_trainer.tasks.base import CardParts, template_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs

_LABELS_SHOWN = 40
_LABELS_LISTED = 50
_FEW_EXAMPLES = 20


def baseline_note(details: Mapping[str, Any]) -> str:
    """The accuracies of both baselines, and the data on which the better one was chosen."""
    probe, majority = details.get("linearProbe"), details.get("majorityClass")
    if not majority:
        return ""
    if not probe:
        return f"Always {majority['label']!r}, because the training data has no other label."
    return (
        f"Chosen by {details['chosenBy']}: linear probe {probe['accuracy']:.3f} (C = {probe['C']:g}, fitted on "
        f"{grouped(probe['trainExamples'])} training examples), majority class {majority['accuracy']:.3f} "
        f"({majority['label']}). The test split was not used for this choice."
    )


def report_section(inputs: ReportInputs, environment: Environment) -> str:
    """Recall by label, confusions, and the examples that tuning fixed or broke."""
    counts = inputs.data.splits["train"].label_counts
    examples = inputs.spec.evaluation.report.include_examples
    changes = classification_changes(inputs.predictions, inputs.data.labels, counts, examples=examples)
    render = template_of(__package__, "report.html.jinja", environment)
    return render(changes=changes, labels_shown=_LABELS_SHOWN, recall_bar=recall_bar)


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
    if inputs.export.is_adapter:
        note += (
            f' `AutoPeftModelForSequenceClassification.from_pretrained(".", num_labels={len(labels)})` loads base '
            "model and adapter together; without `num_labels` it assumes two."
        )
    return CardParts(
        purpose="text classification",
        usage=render(**inputs.of_usage),
        note=note,
        limitations=[
            f"The model always predicts one of the {len(labels)} labels, even if none fits.",
            *(
                f"The label {inline_code(label)} had only {count} training examples."
                for label, count in _smallest_labels(inputs.data)
            ),
        ],
    )


def _smallest_labels(data: DataReport) -> list[tuple[str, int]]:
    """Up to five labels with few training examples, fewest first."""
    counts = data.splits["train"].label_counts
    few = sorted((counts.get(label, 0), label) for label in data.labels)
    return [(label, count) for count, label in few if count < _FEW_EXAMPLES][:5]
