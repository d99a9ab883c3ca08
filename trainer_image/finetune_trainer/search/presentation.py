"""The search in report and model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_trainer.report.charts import Series, line_chart
from finetune_trainer.report.format import format_change, format_value
from finetune_trainer.tasks.base import template_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.evaluate.answer_scoring import AnswerForm
    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs

_LISTED = 20
"""Combinations in the table of the report."""


def baseline_note(details: Mapping[str, Any]) -> str:
    """What the comparison is, in sentences."""
    search = details.get("search")
    if not search:
        return ""
    return (
        f"The best of {search['combinations']} combinations was chosen on {search['validationExamples']} validation "
        "examples; both prompts were then measured once on the test split, with the same settings of generation."
    )


def report_section(inputs: ReportInputs, environment: Environment) -> str:
    """The share of instruction and examples in the gain, the curve of the search, and the best combinations."""
    search, trials = inputs.details["search"], inputs.history.get("search") or []
    metric = Metric(search["metric"])
    values = [(float(one["trial"]), one[metric]) for one in trials if one.get(metric) is not None]
    better = max if metric.higher_is_better else min
    curve = [(number, better(value for _, value in values[:index])) for index, (number, _) in enumerate(values, 1)]
    plain = [(number, search["plain"]) for number, _ in values] if search["plain"] is not None else []
    chart = line_chart(
        f"{metric.row.title} on the validation examples",
        "combination",
        metric.row.title,
        [
            Series("best so far", curve, "tuned"),
            Series("each combination", values, "accent", markers=True),
            Series("plain prompt", plain, "baseline"),
        ],
    )
    ordered = sorted(
        (one for one in trials if one.get(metric) is not None),
        key=lambda one: -one[metric] if metric.higher_is_better else one[metric],
    )
    return template_of(__package__, "report.html.jinja", environment)(
        search=search,
        proposer=_proposer(inputs.spec),
        title=metric.row.title,
        shares=_shares(search, metric),
        chart=chart,
        rows=[{**one, "value": format_value(metric, one[metric])} for one in ordered[:_LISTED]],
        left_out=len(trials) - len(ordered),
        prompt=inputs.details["prompt"] if inputs.spec.evaluation.report.include_examples else None,
        instruction=inputs.details["prompt"]["instruction"],
        plain_instruction=inputs.details["plainPrompt"],
    )


def _proposer(spec: FineTuneJobSpec) -> str:
    """Who has proposed instructions, as the beginning of a sentence."""
    settings = spec.method.settings
    proposer = settings.proposer if isinstance(settings, PromptSearchSpec) else None
    return f"{proposer.model} at {proposer.url}" if proposer else "The model itself"


def _shares(search: Mapping[str, Any], metric: Metric) -> list[tuple[str, str, str]]:
    """Each step from the plain prompt to the best one: its name, the score and what the step gains."""
    steps = [
        ("the plain prompt", search["plain"]),
        ("the best instruction, without examples", search["instructionAlone"]),
        ("the best instruction with its examples", search["best"]),
    ]
    rows, before = [], None
    for name, value in steps:
        gain = "" if value is None or before is None else format_change(metric, value - before)
        rows.append((name, format_value(metric, value), gain))
        before = value
    return rows


def usage(decoder: bool, form: AnswerForm | None, inputs: CardInputs, environment: Environment) -> str:
    """The program on the model card.

    Args:
        decoder: Whether the model is a decoder.
        form: How answers are generated, for a task whose answers are texts.
        inputs: Inputs of the card.
        environment: Renders the template.
    """
    generation = inputs.spec.evaluation.generation
    name = "usage.py.jinja" if decoder else "seq2seq_usage.py.jinja"
    row, endpoint = inputs.spec.task.type.row, inputs.spec.model.endpoint
    if endpoint:
        name = "endpoint_usage.py.jinja"
    return template_of(__package__, name, environment)(
        **inputs.of_usage,
        url=endpoint and endpoint.url,
        model=endpoint and endpoint.model,
        texts=dict.fromkeys(row.placeholders, "A text"),
        ranks=bool(inputs.data.labels),
        keeps_space=form is not None and form.keeps_space,
        beams=generation.beams,
        max_new_tokens=generation.max_new_tokens,
        end_tokens=list(inputs.data.end_tokens),
        settings=inputs.data.generation,
    )
