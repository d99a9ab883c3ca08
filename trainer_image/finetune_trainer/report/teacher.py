"""What report and model card say about the teacher of a distillation."""

from __future__ import annotations

from finetune_api.evaluation import Evaluation, ModelCost
from finetune_api.spec import DistillationMode, FineTuneJobSpec
from finetune_api.stage import TeacherAnswers
from finetune_api.tables.metrics import Metric
from finetune_trainer.prepared import DataReport, ResponsesReport
from finetune_trainer.report.format import grouped


def has_teacher(evaluation: Evaluation) -> bool:
    """Whether the teacher was measured."""
    return any(metric.teacher is not None for metric in evaluation.metrics)


def teacher_text(evaluation: Evaluation) -> str:
    """How far the student has come, and what both models cost, in sentences; empty without a teacher."""
    text = ""
    first = evaluation.metrics[0]
    if first.gap_closed is not None and isinstance(first.name, Metric):
        title = first.name.row.title
        if first.gap_closed < 0:
            text += f"In {title}, the student is further from the teacher than the baseline is. "
        else:
            share = f"{100 * first.gap_closed:.0f} %"
            text += f"The student closes {share} of the gap in {title} from the baseline to the teacher. "
    if costs := evaluation.costs:
        text += f"The student has {_cost(costs.student)}"
        if costs.teacher is None:
            text += f". These are forward passes over rows of the test split on {costs.device}."
        else:
            faster = costs.student.rows_per_second / costs.teacher.rows_per_second
            text += (
                f"; the teacher has {_cost(costs.teacher)}. These are forward passes over the same rows of the test "
                f"split on {costs.device}, one model after the other; the student is {faster:.2g} times as fast."
            )
    return text.strip()


def teacher_settings(spec: FineTuneJobSpec, data: DataReport) -> list[tuple[str, str]]:
    """The settings of the distillation as (name, value) rows."""
    distillation = spec.distillation
    if distillation is None:
        return []
    teacher = distillation.teacher
    if data.teacher is not None:
        name = f"{data.teacher.model.uri}, version {data.teacher.model.revision}"
    else:
        name = f"{teacher.endpoint.model} at {teacher.endpoint.url}" if teacher.endpoint else str(teacher.uri)
    rows = [("Teacher", name), ("Distillation", str(distillation.mode))]
    if data.responses is not None:
        rows += _answers(data.responses)
    if distillation.mode is DistillationMode.LOGITS:
        rows.append(("Weight and temperature of the teacher", f"{distillation.weight:g}, {distillation.temperature:g}"))
    return rows


def _answers(responses: ResponsesReport) -> list[tuple[str, str]]:
    """What the answers of the teacher cost, as (name, value) rows."""
    answers = responses.answers
    estimated = f" (of {grouped(responses.estimated)} answers estimated)" if responses.estimated else ""
    speed = answers.completion_tokens / responses.seconds if responses.seconds else 0.0
    tokens = grouped(speed) if speed >= 10 else f"{speed:.2g}"
    at_once = "" if responses.url is None else ", with several requests at a time"
    return [
        ("Answers that are learned", f"{grouped(answers.used)} of {grouped(answers.used + answers.left_out)}"),
        *_requests(answers),
        (
            "Tokens of the teacher",
            f"{grouped(answers.prompt_tokens)} of prompts, {grouped(answers.completion_tokens)} of answers{estimated}",
        ),
        *([("Cost of the tokens", f"{answers.cost:,.2f} {answers.currency}")] if answers.cost is not None else []),
        ("Speed of the teacher", f"{tokens} tokens of an answer in a second{at_once}"),
    ]


def _requests(answers: TeacherAnswers) -> list[tuple[str, str]]:
    if answers.requests is None:
        return [("Answers kept from before", grouped(answers.kept))] if answers.kept else []
    more = f", {grouped(answers.kept)} answers kept from before" if answers.kept else ""
    return [("Requests", f"{grouped(answers.requests)}, of these {grouped(answers.retries)} repeated{more}")]


def _cost(cost: ModelCost) -> str:
    return (
        f"{grouped(cost.parameters)} parameters ({cost.bytes / 1e6:,.1f} MB) and reads "
        f"{grouped(cost.rows_per_second)} rows or {grouped(cost.tokens_per_second)} tokens in a second"
    )
