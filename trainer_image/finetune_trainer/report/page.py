"""Renders the evaluation report as an HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, select_autoescape
from markupsafe import Markup

from finetune_api.evaluation import BaselineKind, Evaluation, GateResult, MetricResult, Verdict
from finetune_api.method_settings import PreferenceSpec
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_api.stage import JobIdentity
from finetune_api.text import duration
from finetune_api.vocabulary import LearnedTokens
from finetune_trainer.evaluate.power import FEWEST
from finetune_trainer.methods import method_of
from finetune_trainer.methods.coverage import Coverage
from finetune_trainer.prepared import DataReport
from finetune_trainer.report.charts import NARROW, TONES, Series, change_bar, line_chart
from finetune_trainer.report.format import format_change, format_value, grouped
from finetune_trainer.report.slices import slice_rows
from finetune_trainer.report.teacher import has_teacher, teacher_settings, teacher_text
from finetune_trainer.tasks import form_for

BASELINE_NAMES: dict[BaselineKind, tuple[str, str]] = {
    BaselineKind.BASE_MODEL: ("the base model", "the model before fine-tuning, with the same inputs"),
    BaselineKind.LINEAR_PROBE: ("a linear probe", "logistic regression on features of the base model"),
    BaselineKind.MAJORITY_CLASS: ("the majority class", "always the most frequent label of the training data"),
    BaselineKind.NO_ANSWER: ("no answer", "no question gets an answer"),
    BaselineKind.PREVIOUS: ("the previous model", "the one that was published before, measured again in the same way"),
    BaselineKind.PLAIN_PROMPT: (
        "the plain prompt",
        "the same model, with the default instruction of the task and no examples",
    ),
}
_REFERENCES = {
    BaselineKind.BASE_MODEL: "the base model",
    BaselineKind.PREVIOUS: "the adapter that training continued from",
}
"""What rewards are measured against."""

_OF_TRAINING = ("epochs", "trainableParameters")
"""Facts of a training that a search has none of."""
_TEXT_SHOWN = 700
_CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class ReportInputs:
    """Inputs of the report."""

    job: JobIdentity
    spec: FineTuneJobSpec
    data: DataReport
    evaluation: Evaluation
    details: Mapping[str, Any]
    """Details of the baseline."""
    tables: Mapping[str, Any]
    """Measurements by label."""
    predictions: Sequence[Mapping[str, Any]]
    history: Mapping[str, Any]
    """Content of ``history.json``."""
    training: Mapping[str, Any]
    """Content of ``training.json``."""
    digests: Mapping[str, str]
    """Digests of the input manifests and the spec, by title."""


@dataclass(frozen=True)
class Headline:
    """The summary at the top of the page."""

    tone: str
    """CSS class: better, worse or unclear."""
    text: str
    sentence: str


def render(inputs: ReportInputs) -> str:
    """The report as a single HTML file without scripts or external resources; all text is escaped."""
    folder = files("finetune_trainer.report") / "templates"
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": _short, "grouped": grouped}
    environment.globals["compared"] = inputs.evaluation.baseline.kind.compared
    shown = form_for(inputs.spec, inputs.data.family).presentation()
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        policy=_CONTENT_POLICY,
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        inputs=inputs,
        job=inputs.job,
        data=inputs.data,
        evaluation=inputs.evaluation,
        trains=inputs.spec.method.type.row.trains,
        headline=headline(inputs.evaluation),
        baseline_name=BASELINE_NAMES[inputs.evaluation.baseline.kind],
        baseline_note=" ".join(
            part for part in (previous_text(inputs.details), shown.baseline_note(inputs.details)) if part
        ),
        metrics=_metric_rows(inputs.evaluation.metrics),
        has_teacher=has_teacher(inputs.evaluation),
        teacher=teacher_text(inputs.evaluation),
        exact_base=exact_base_text(inputs.spec, inputs.evaluation),
        gates=[(gate_text(gate), gate) for gate in inputs.evaluation.gates],
        curves=_curves(inputs),
        examples=inputs.spec.evaluation.report.include_examples,
        slices=slice_rows(inputs.tables.get("slices", ())),
        fewest=FEWEST,
        section=Markup(shown.report_section(inputs, environment)),
        settings=settings(inputs.spec, inputs.data),
        training=training_facts(inputs.training),
        versions=inputs.training.get("versions") or {},
        spec_json=json.dumps(inputs.spec.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False),
    )


def headline(evaluation: Evaluation) -> Headline:
    """The comparison of the score with the baseline, and the number of failed gates."""
    score = evaluation.metrics[0]
    name, baseline = score.name.row.title, BASELINE_NAMES[evaluation.baseline.kind][0]
    joined = "from" if score.verdict is Verdict.NO_DIFFERENCE else "than"
    comparison, tone = f"{score.verdict.capitalize()} {joined} {baseline}", TONES[score.verdict]
    failed = sum(not gate.passed for gate in evaluation.gates)
    if failed:
        tone = "worse"
        comparison = f"Rejected: {failed} of {len(evaluation.gates)} gates failed"
    low, high = score.interval
    against = (
        f"with rewards against {_REFERENCES[score.measured_against]}"
        if score.measured_against is not None
        else f"instead of {format_value(score.name, score.baseline)}"
    )
    sentence = (
        f"{name} {format_value(score.name, score.tuned)} {against} on "
        f"{grouped(evaluation.examples)} {evaluation.split} examples: {format_change(score.name, score.change)}, "
        f"95 % interval {format_change(score.name, low)} to {format_change(score.name, high)}."
    )
    return Headline(tone, comparison, sentence)


def gate_text(gate: GateResult) -> str:
    """A gate in words, with the compared value."""
    name = gate.metric.row.title
    if gate.not_worse:
        return f"{name} not significantly worse than the baseline"
    if gate.minimum_improvement is not None:
        change = f"{gate.value:+.4g}".replace("-", "−")
        return f"{name} better by at least {gate.minimum_improvement:g}: {change}"
    bound = f"at least {gate.minimum:g}" if gate.minimum is not None else f"at most {gate.maximum:g}"
    return f"{name} {bound}: {gate.value:.4g}"


def exact_base_text(spec: FineTuneJobSpec, evaluation: Evaluation) -> str:
    """The score on the base model that is not rounded, as a sentence; empty if it was not measured."""
    found = evaluation.exact_base
    if found is None:
        return ""
    low, high = (format_change(found.name, bound) for bound in found.interval)
    return (
        f"All values above are those of the base model in {spec.model.quantization}. On the base model without "
        f"quantization, the adapter has {found.name.row.title} {format_value(found.name, found.tuned)} instead of "
        f"{format_value(found.name, found.baseline)}: {format_change(found.name, found.change)}, 95 % interval {low} "
        f"to {high}."
    )


def previous_text(details: Mapping[str, Any]) -> str:
    """The previous model and the score of the untuned one, in sentences; empty if the baseline is another."""
    previous, untuned = details.get("previous"), details.get("untuned")
    if not previous:
        return ""
    which = f"of revision {previous['revision']} " if "revision" in previous else "that training continued from "
    text = f"The previous model is the artifact {which}({previous['digest']})."
    if untuned:
        metric = Metric(untuned["metric"])
        text += (
            f" Without any tuning, {metric.row.title} is {format_value(metric, untuned['value'])} "
            f"({BASELINE_NAMES[BaselineKind(untuned['kind'])][0]})."
        )
    return text


def settings(spec: FineTuneJobSpec, data: DataReport) -> list[tuple[str, str]]:
    """The training settings as (name, value) rows."""
    training = spec.training
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs or 3:g} epochs"
    rows = [("Task", str(spec.task.type)), ("Method", str(spec.method.type))]
    rows += [
        *([("Continues from the adapter", data.continued.digest)] if data.continued else []),
        *method_of(spec.method.type).describe(spec),
        *([("Base model stored as", _stored(spec, data))] if data.rounded_parameters else []),
    ]
    if not spec.method.type.row.trains:
        return [*rows, ("Seed", str(training.seed))]
    rows += [
        *([("Preference", _preference(spec.preference))] if spec.preference else []),
        *teacher_settings(spec, data),
        ("Length", length),
        *([("Learned tokens", "all of a conversation")] if spec.task.loss is LearnedTokens.ALL else []),
        ("Batch size", f"{training.batch_size} {_unit(spec)} per step"),
        ("Learning rate", f"{spec.learning_rate:g}, {training.schedule}"),
        ("Weight decay", f"{training.weight_decay:g}"),
        ("Rows", _rows(spec, data)),
        ("Processes", f"{spec.distributed.world_size}, ZeRO stage {spec.distributed.zero.stage}"),
        ("Seed", str(training.seed)),
        *(("Because of the model", note) for note in data.handling.notes),
    ]
    return rows


def _unit(spec: FineTuneJobSpec) -> str:
    if spec.preference is None:
        return "sequences"
    return "pairs" if spec.preference.loss.row.paired else "answers"


def _stored(spec: FineTuneJobSpec, data: DataReport) -> str:
    share = (data.rounded_parameters or 0) / max(1, data.model.parameters)
    return f"{spec.model.quantization}, {100 * min(1, share):.1f} % of its parameters"


def _preference(preference: PreferenceSpec) -> str:
    weights = (preference.desirable_weight, preference.undesirable_weight)
    weighted = "" if weights == (1, 1) else f", weights {weights[0]:g} (desirable) and {weights[1]:g} (undesirable)"
    return f"{preference.loss}, beta {preference.beta:g}{weighted}"


def _rows(spec: FineTuneJobSpec, data: DataReport) -> str:
    """What a row of a batch is."""
    if spec.task.type.row.joins:
        return "joined examples, cut into rows of equal length"
    return "packed with several examples" if data.handling.packing else "one example each"


def training_facts(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The training result as (name, value) rows, from the values that ``training.json`` contains."""
    rows = []
    searched = "search" in training
    for key, name, form in (
        ("steps", "Combinations scored" if searched else "Steps", grouped),
        ("weightsOfStep", "Step of the published weights", grouped),
        ("epochs", "Epochs", "{:.3g}".format),
        ("loss", "Training loss, last tenth of steps", "{:.4g}".format),
        ("validationLoss", "Validation loss at the end", "{:.4g}".format),
        ("tokens", "Tokens read and written" if searched else "Tokens trained on", grouped),
        ("tokensPerSecond", "Tokens per second", grouped),
        ("trainableParameters", "Trainable parameters", grouped),
        ("finished", "Finished", str),
        ("seconds", "Duration of the search" if searched else "Duration of the steps", duration),
        ("hardware", "Hardware", str),
        ("precision", "Precision", str),
        ("computations", "Computations", "; ".join),
    ):
        if training.get(key) not in (None, []) and not (searched and key in _OF_TRAINING):
            rows.append((name, form(training[key])))
    if adapted := training.get("adapted"):
        coverage = Coverage.of(adapted)
        rows += [
            ("Weights that the adapter changes", coverage.changed),
            ("Weights without an adapter", coverage.unchanged),
        ]
    if "stoppedEarly" in training and not searched:
        rows.append(("Stopped early", "yes" if training["stoppedEarly"] else "no"))
    return rows


def _short(text: str | None) -> str:
    if text is None:
        return ""
    return text if len(text) <= _TEXT_SHOWN else f"{text[:_TEXT_SHOWN].rstrip()} …"


def _metric_rows(metrics: Sequence[MetricResult]) -> list[dict[str, Any]]:
    # Metrics with values in 0 … 1 share a scale, so that their bars are comparable.
    shared = max((_reach(metric) for metric in metrics if metric.name.row.unit_scale), default=1.0)
    rows = []
    for metric in metrics:
        reach = shared if metric.name.row.unit_scale else _reach(metric)
        low, high = metric.interval
        rows.append(
            {
                "name": metric.name.row.title,
                "key": str(metric.name),
                "explanation": metric.name.row.meaning,
                "baseline": format_value(metric.name, metric.baseline),
                "tuned": format_value(metric.name, metric.tuned),
                "teacher": format_value(metric.name, metric.teacher),
                "change": format_change(metric.name, metric.change),
                "low": format_change(metric.name, low),
                "high": format_change(metric.name, high),
                "bar": change_bar(metric.change, metric.interval, reach, metric.verdict),
            }
        )
    return rows


def _reach(metric: MetricResult) -> float:
    return max(abs(metric.change), abs(metric.interval[0]), abs(metric.interval[1])) * 1.08 or 1.0


def _curves(inputs: ReportInputs) -> list[Markup]:
    history, during = inputs.history, inputs.spec.evaluation.during_training
    train, validation = history.get("train") or [], history.get("validation") or []

    def points(entries: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
        found = [(entry["step"], entry.get(key)) for entry in entries]
        return [(float(step), float(value)) for step, value in found if value is not None and math.isfinite(value)]

    taught = [entry for entry in train if "divergence" in entry]
    # The validation loss never has the part of the teacher.
    names = ("training, with the teacher", "validation, cross entropy alone") if taught else ("training", "validation")
    loss = [
        Series(names[0], points(train, "loss"), "baseline"),
        Series(names[1], points(validation, "loss"), "tuned", markers=len(validation) <= 60),
    ]
    parts = taught and [
        Series("cross entropy", points(taught, "crossEntropy"), "baseline"),
        Series("divergence from the teacher", points(taught, "divergence"), "tuned"),
    ]
    generated = [{"step": entry["step"], **entry["metrics"]} for entry in validation if "metrics" in entry]
    metrics = inputs.spec.metrics
    measured = next((metric for metric in metrics if any(metric in entry for entry in generated)), None)
    examples = min(during.examples, inputs.data.splits["validation"].examples) if during else 0
    charts = [
        line_chart("Loss", "optimizer step", "loss, nats", loss),
        None
        if not parts
        else line_chart("Parts of the training loss, before their weights", "optimizer step", "nats", parts),
        None
        if measured is None
        else line_chart(
            f"{measured.row.title} of answers to {grouped(examples)} validation examples",
            "optimizer step",
            measured.row.title,
            [Series("validation", points(generated, measured), "tuned", markers=len(generated) <= 60)],
        ),
        line_chart(
            "Learning rate",
            "optimizer step",
            "learning rate",
            [Series("learning rate", points(train, "learningRate"), "accent")],
            size=NARROW,
            from_zero=True,
        ),
        line_chart(
            "Throughput",
            "optimizer step",
            "tokens per second",
            [Series("tokens per second", points(train, "tokensPerSecond"), "accent")],
            size=NARROW,
            from_zero=True,
        ),
    ]
    return [chart for chart in charts if chart is not None]
