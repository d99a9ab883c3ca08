"""InstructionTuning in report and model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_api.tables.metrics import Metric
from finetune_trainer.evaluate.metrics import TEACHER_FORCED
from finetune_trainer.report.changes import generation_changes
from finetune_trainer.report.format import format_value
from finetune_trainer.tasks.base import CardParts, Presentation, template_of

if TYPE_CHECKING:
    from jinja2 import Environment

    from finetune_trainer.publish.model_card import CardInputs
    from finetune_trainer.report.page import ReportInputs


def baseline_note(details: Mapping[str, Any]) -> str:
    """The decoding settings of both models; empty if no answers were generated."""
    if "maxNewTokens" not in details:
        return ""
    how = "greedily" if details["decoding"] == "greedy" else f"by {details['decoding']}"
    note = f"Answers were decoded {how}, with at most {details['maxNewTokens']} new tokens"
    if longer := details.get("longerReferences"):
        note += f", which {longer} of the references {'exceed' if longer > 1 else 'exceeds'}"
    if limited := details.get("limitedAnswers"):
        note += f", in {limited} examples fewer, because prompt and answer must fit into the model's positions"
    signatures = (f" {metric}: {signature}." for metric, signature in details.get("signatures", {}).items())
    return f"{note}.{''.join(signatures)}"


def report_section(inputs: ReportInputs, environment: Environment) -> str:
    """The test examples with the largest gains and losses in one metric."""
    if not inputs.predictions:
        return ""
    render = template_of(__package__, "report.html.jinja", environment)
    return render(**of_changes(inputs))


def of_changes(inputs: ReportInputs) -> dict[str, Any]:
    """The variables of a section about the changes in one metric of generated answers."""
    metric = sorting_metric(inputs.spec.metrics)
    changes = generation_changes(
        inputs.predictions,
        str(metric),
        metric.higher_is_better,
        examples=inputs.spec.evaluation.report.include_examples,
    )
    return {"changes": changes, "metric_name": metric.row.title, "format_value": format_value}


def card(inputs: CardInputs, environment: Environment) -> CardParts:
    """Usage: a program that answers a prompt."""
    return CardParts(
        purpose="following instructions",
        usage=usage(inputs, environment),
        note="",
        limitations=["Answers were compared with a single reference; truth and safety were not evaluated."],
    )


def usage(inputs: CardInputs, environment: Environment) -> str:
    """A program that answers a prompt."""
    return template_of(__package__, "usage.py.jinja", environment)(
        **inputs.of_usage,
        chat_template=inputs.chat_template,
        max_new_tokens=inputs.spec.evaluation.generation.max_new_tokens,
        end_tokens=list(inputs.data.end_tokens) or None,
    )


def sorting_metric(metrics: tuple[Metric, ...]) -> Metric:
    """The metric to sort examples by: preferably a generation metric that is not binary."""
    generated = [metric for metric in metrics if metric not in TEACHER_FORCED]
    graded = [metric for metric in generated if metric is not Metric.EXACT_MATCH]
    return next(iter([*graded, *generated, *metrics]))


PRESENTATION = Presentation(baseline_note, report_section, card)
