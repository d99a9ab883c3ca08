"""LanguageModeling in report and model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_api.tables.metrics import Metric
from finetune_trainer.evaluate.likelihood import Likelihood
from finetune_trainer.report.changes import generation_changes
from finetune_trainer.report.format import format_value, grouped
from finetune_trainer.tasks.base import CardParts, Presentation, template_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs

SAMPLE = "A text whose likelihood is measured, and that is then continued."
"""The text of the program in the model card."""
_CONTINUED_TOKENS = 64


def baseline_note(details: Mapping[str, Any]) -> str:
    """Over what the metrics are."""
    note = (
        f"Each document was scored alone, after {details['before']}: {grouped(details['scoredTokens'])} tokens with "
        f"the {grouped(details['scoredEnds'])} end tokens, and {grouped(details['bytes'])} bytes of UTF-8, in "
        f"{grouped(details['windows'])} windows of at most {grouped(details['windowLength'])} tokens."
    )
    if several := details.get("documentsInSeveralWindows"):
        longer = "document is" if several == 1 else "documents are"
        note += (
            f" {grouped(several)} {longer} longer than a window; after the first window, at least "
            f"{grouped(details['leastContext'])} tokens of context precede the scored ones."
        )
    return note


def report_section(inputs: ReportInputs, environment: Environment) -> str:
    """The documents whose likelihood has changed most for their length, and the loss by position."""
    metric = Metric.BITS_PER_BYTE  # Of each document; it does not depend on whether the job measures it.
    changes = generation_changes(
        [{**row, "scores": {metric: _of_row(row, metric)}} for row in inputs.predictions],
        metric,
        metric.higher_is_better,
        examples=inputs.spec.evaluation.report.include_examples,
        is_reference=lambda _: False,
    )
    render = template_of(__package__, "report.html.jinja", environment)
    return render(
        changes=changes,
        metric_name=metric.row.title,
        format_value=format_value,
        positions=inputs.details.get("lossByPosition", ()),
    )


def _of_row(row: Mapping[str, Any], metric: Metric) -> dict[str, float]:
    """The metric of both models for one document."""
    import numpy as np

    sizes = (np.array([row[key]], np.float64) for key in ("tokens", "bytes"))
    tokens, size = sizes
    return {name: Likelihood(np.array([nll]), tokens, size).score(metric) for name, nll in row["nll"].items()}


def card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that measures the likelihood of a text and continues it."""
    render = template_of(__package__, "usage.py.jinja", environment)
    data = inputs.data
    usage = render(
        **inputs.of_usage,
        sample=SAMPLE,
        before=list(data.start_tokens or data.end_tokens[:1]),
        end=data.end_tokens[0] if data.end_tokens else None,
        end_tokens=list(data.end_tokens) or None,
        new_tokens=_CONTINUED_TOKENS,
    )
    return CardParts(
        purpose="continuing texts",
        usage=usage,
        note="The program measures a text of at most "
        f"{grouped(data.max_sequence_length)} tokens as the evaluation did; longer ones need several windows.",
        limitations=[
            "The likelihood of texts was measured, not what the model writes; truth and safety were not evaluated.",
            "In training, documents in a row saw those before them.",
        ],
    )


PRESENTATION = Presentation(baseline_note, report_section, card)
