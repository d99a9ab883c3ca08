"""QuestionAnswering with an encoder in report and model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_api.tables.metrics import Metric
from finetune_trainer.report.changes import generation_changes
from finetune_trainer.report.format import format_value
from finetune_trainer.tasks.base import CardParts, Presentation, template_of
from finetune_trainer.tasks.question_answering.kinds import ANSWERED, UNANSWERED
from finetune_trainer.tasks.question_answering.windows import DEFAULT_OVERLAP

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs

_AROUND = 160
"""Characters of the context that are shown on each side of a span."""

RULES = (
    "Answers are compared by the rules of SQuAD 2.0: without case, punctuation, English articles and white space, with "
    "the closest of the references."
)
NEVER_WITHOUT_ANSWER = "The model has not learned that a text may have no answer."

_KINDS = {"reference": "answerSpans", "baseline": "baselineSpan", "tuned": "tunedSpan"}


@dataclass(frozen=True)
class Segment:
    """A part of a context that is marked as a whole."""

    text: str
    kinds: tuple[str, ...]
    """Whose answers it belongs to: reference, baseline, tuned; none for a part without a mark."""


def baseline_note(details: Mapping[str, Any]) -> str:
    """How the baseline was chosen, and the rules of the metrics."""
    probe = details.get("linearProbe")
    if not probe:
        return RULES
    return (
        f"Chosen by {details['chosenBy']}: a linear span head on the frozen base model {probe['f1']:.3f} (fitted on "
        f"{probe['trainWindows']:,} windows of the training data), no answer to any question "
        f"{details['noAnswer']['f1']:.3f}. The test split was not used for this choice. {RULES}"
    )


def report_section(inputs: ReportInputs, environment: Environment) -> str:
    """The questions with the largest gains and losses, with all answers marked in their contexts."""
    if not inputs.predictions:
        return ""
    scores = inputs.predictions[0]["scores"]
    metric = next(metric for metric in (Metric.SQUAD_F1, *inputs.spec.metrics) if metric in scores)
    render = template_of(__package__, "report.html.jinja", environment)
    counts = [
        (name, split.label_counts.get(ANSWERED, 0), split.label_counts.get(UNANSWERED, 0))
        for name, split in inputs.data.splits.items()
    ]
    return render(
        changes=generation_changes(
            inputs.predictions,
            metric,
            metric.higher_is_better,
            examples=inputs.spec.evaluation.report.include_examples,
            is_reference=lambda row: row["tuned"] in (row["answers"] or [""]),
        ),
        metric_name=metric.row.title,
        format_value=format_value,
        segments=segments,
        counts=counts,
        unanswered={side: sum(not row[side] for row in inputs.predictions) for side in ("baseline", "tuned")},
        decoding=inputs.evaluation.span_decoding,
    )


def card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that answers a question about a text of any length."""
    overlap = inputs.spec.task.window_overlap
    decoding = inputs.evaluation.span_decoding
    threshold = None if decoding is None else decoding.threshold
    note = "The program gives an answer to every question, because the validation data had none without an answer."
    if threshold is not None:
        note = (
            f"The answer is empty where the text has none: where the score of no answer exceeds that of the best span "
            f"by more than {threshold:.3f}. This threshold in `evaluation.json` was chosen on the validation data."
        )
    render = template_of(__package__, "usage.py.jinja", environment)
    return CardParts(
        purpose="extractive question answering",
        usage=render(**inputs.of_usage, overlap=DEFAULT_OVERLAP if overlap is None else overlap),
        note=note,
        limitations=[
            "An answer is always a part of the text, word for word; what the text only implies is not found.",
            *(() if inputs.data.splits["train"].label_counts.get(UNANSWERED) else (NEVER_WITHOUT_ANSWER,)),
        ],
    )


def segments(row: Mapping[str, Any]) -> list[Segment]:
    """The context of a row of predictions.jsonl around the answers, divided where one begins or ends.

    Parts that are left out are a segment ``…``.
    """
    context: str = row["context"]
    marks = list(_marks(row))
    cuts = sorted({0, len(context), *(end for span, _ in marks for end in span)})
    result = []
    end = 0
    for start, stop in _shown(context, [span for span, _ in marks]):
        if start > end:
            result.append(Segment(" … ", ()))
        inner = [cut for cut in cuts if start < cut < stop]
        for left, right in zip([start, *inner], [*inner, stop], strict=True):
            kinds = dict.fromkeys(kind for (first, last), kind in marks if first <= left and right <= last)
            result.append(Segment(context[left:right], tuple(kinds)))
        end = stop
    if end < len(context):
        result.append(Segment(" …", ()))
    return result


def _marks(row: Mapping[str, Any]) -> Iterator[tuple[tuple[int, int], str]]:
    for kind, key in _KINDS.items():
        spans = row[key] if kind == "reference" else [row[key]] if row[key] else []
        for start, end in spans:
            yield (start, end), kind


def _shown(context: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of the context around the spans, or its beginning if there are none; in order, and apart."""
    parts = sorted((max(0, start - _AROUND), min(len(context), end + _AROUND)) for start, end in spans)
    start, end = parts[0] if parts else (0, min(len(context), 3 * _AROUND))
    for left, right in parts[1:]:
        if left > end:
            yield start, end
            start, end = left, right
        else:
            end = max(end, right)
    yield start, end


PRESENTATION = Presentation(baseline_note, report_section, card)
