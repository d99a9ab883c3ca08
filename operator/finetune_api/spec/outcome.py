"""Evaluation, output and resilience of a job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, Rule
from finetune_api.references import SecretRef
from finetune_api.spec.rules import listed
from finetune_api.tables.harness import METRIC, RANGES, TASK, WANTED, HarnessMetric, MetricName
from finetune_api.tables.metrics import Metric
from finetune_api.tables.preferences import PREFERENCES, PreferenceLoss
from finetune_api.tables.tasks import TASKS
from finetune_api.vocabulary import BaselineChoice, ColumnName, DirectoryUri, OutputUri, Seconds

_DEFAULT_METRICS = "; ".join(f"{', '.join(row.default_metrics)} for {task}" for task, row in TASKS.items())
_DEFAULT_METRICS += "".join(
    f"; {', '.join(row.multi_label.default_metrics)} for {task} with multiLabel"
    for task, row in TASKS.items()
    if row.multi_label
)
_DEFAULT_METRICS += "".join(
    f"; {', '.join(row.runs_metrics)} for {task} with allowCodeExecution"
    for task, row in TASKS.items()
    if row.runs_metrics
)
_DEFAULT_METRICS += f"; {', '.join(PREFERENCES[PreferenceLoss.KTO].metrics)} for PreferenceTuning with KTO"


def _range_rules() -> Iterator[Rule]:
    """A bound that is outside the range of its metric tests nothing, or nothing passes it."""
    for lowest, highest in RANGES:
        yield _range_rule(lowest, highest)


def _range_rule(lowest: int, highest: int) -> Rule:
    metrics = [metric for metric in Metric if (metric.row.lowest, metric.row.highest) == (lowest, highest)]
    width, of_harness = highest - lowest, RANGES[lowest, highest]
    pattern = f"^[^/]*/({'|'.join(map(re.escape, of_harness))})(,.*)?$"

    def holds(gate: Gate) -> bool:
        bounds = [bound for bound in (gate.minimum, gate.maximum) if bound is not None]
        change = gate.minimum_improvement or 0.0
        return not (gate.metric in metrics or re.match(pattern, gate.metric)) or (
            all(lowest <= bound <= highest for bound in bounds) and -width <= change <= width
        )

    return Rule(
        cel=f"!(self.metric in {listed(metrics)} || self.metric.matches({pattern!r})) || ("
        f"(!has(self.minimum) || self.minimum >= {lowest}.0 && self.minimum <= {highest}.0) && "
        f"(!has(self.maximum) || self.maximum >= {lowest}.0 && self.maximum <= {highest}.0) && "
        f"(!has(self.minimumImprovement) || self.minimumImprovement >= -{width}.0 && "
        f"self.minimumImprovement <= {width}.0))",
        message=f"{', '.join(metrics)} range from {lowest} to {highest}, and so do minimum and maximum; likewise "
        f"{', '.join(of_harness)} of a task of lm-eval",
        field="metric",
        holds=holds,
    )


class Gate(ApiModel):
    """A condition on a metric of the test split; the model is published only if all gates pass."""

    metric: MetricName = Field(
        description="Metric of the task, or task/metric of a task in evaluation.harness, such as arc_easy/acc.",
        json_schema_extra={
            "x-kubernetes-validations": [
                {"rule": f"self in {listed(Metric)} || self.matches('{METRIC}')", "message": f"a metric {WANTED}"}
            ]
        },
    )
    minimum: float | None = Field(
        default=None, description="Smallest accepted value of the tuned model, on the scale of the metric."
    )
    maximum: float | None = Field(default=None, description="Largest accepted value of the tuned model.")
    minimum_improvement: float | None = Field(
        default=None,
        description="Smallest accepted improvement over the baseline, in the unit of the metric.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.minimum), has(self.maximum), has(self.minimumImprovement)].exists_one(x, x)",
            message="set exactly one of minimum, maximum and minimumImprovement",
            field="metric",
            holds=lambda gate: (
                sum(bound is not None for bound in (gate.minimum, gate.maximum, gate.minimum_improvement)) == 1
            ),
        ),
        *_range_rules(),
    )


class GenerationSpec(ApiModel):
    """Settings of generation, for metrics on generated answers. They are the same for the baseline."""

    max_new_tokens: int = Field(default=128, ge=1, le=8192, description="Maximum number of tokens of an answer.")
    beams: int = Field(default=1, ge=1, le=16, description="Beams of beam search; 1 is greedy.")
    samples: int = Field(
        default=1,
        ge=1,
        le=200,
        description="CodeGeneration: answers to each prompt. 1 is greedy; more are drawn at the temperature, from the "
        "likeliest tokens that have 95 % of the probability. `finetune predict` is always greedy.",
    )
    temperature: float | None = Field(
        default=None, gt=0, le=2, description="Temperature of several samples. Default: 0.8."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.temperature) || has(self.samples) && self.samples > 1",
            message="temperature requires samples above 1: a single answer is greedy",
            field="temperature",
            holds=lambda generation: generation.temperature is None or generation.samples > 1,
        ),
        Rule(
            cel="!has(self.samples) || self.samples == 1 || !has(self.beams) || self.beams == 1",
            message="samples cannot be combined with beams: samples are drawn, and beams are searched",
            field="samples",
            holds=lambda generation: generation.samples == 1 or generation.beams == 1,
        ),
    )


class DuringTrainingSpec(ApiModel):
    """Generated answers at each validation in training."""

    examples: int = Field(
        default=64, ge=1, le=4096, description="Number of validation examples, drawn once; all if there are fewer."
    )


class ReportSpec(ApiModel):
    """What the report and the model card show."""

    include_examples: bool = Field(
        default=True, description="Whether the report shows test examples with the answers of both models."
    )


HarnessTask = Annotated[str, StringConstraints(pattern=f"^{TASK}$", max_length=100)]


class HarnessPath(ApiModel):
    """Task files of lm-eval."""

    uri: DirectoryUri = Field(
        description="Directory of the task files (*.yaml) and of their data. The data_files of a task are relative to "
        "its file. Files with Python code are refused."
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the credentials for the files. On one machine they come from the environment instead.",
    )


class EvaluationSpec(ApiModel):
    """How the tuned model is compared with the baseline."""

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=8)] | None = Field(
        default=None,
        description=f"Metrics to measure; the first is the score in status. Default: {_DEFAULT_METRICS}.",
    )
    baseline: BaselineChoice = Field(
        default=BaselineChoice.UNTUNED,
        description="What the tuned model is measured against. Untuned: the model before any tuning, or a simpler "
        "classifier that is better. Previous: the adapter in model.adapter, or else the artifact that this job "
        "published last; it is measured again, on the same test examples, without those that it was trained on. The "
        "first revision of a job has none, and is measured against Untuned, with a note. A change evaluates again, "
        "without training.",
    )
    gates: Annotated[tuple[Gate, ...], Field(max_length=16)] = Field(
        default=(), description="Conditions for publication; all must pass."
    )
    publish_worse: bool = Field(
        default=False,
        description="Whether to publish a model whose score is significantly worse than that of the baseline.",
    )
    generation: GenerationSpec = Field(default=GenerationSpec(), description="Settings of generation.")
    during_training: DuringTrainingSpec | None = Field(
        default=None,
        description="Also measure the metrics of generated answers at each validation in training, for the curves. "
        "They decide nothing, and are not measured for a model that is trained already.",
    )
    slices: Annotated[tuple[ColumnName, ...], Field(max_length=8)] = Field(
        default=(),
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="Columns of the data by whose values the metrics are measured as well. They have at most 50 "
        "values each, and the model does not see them. A change of this list prepares the data and evaluates again, "
        "without training.",
    )
    harness: Annotated[tuple[HarnessTask, ...], Field(max_length=8)] = Field(
        default=(),
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="Tasks of lm-eval that the tuned model and the base model are measured with as well. Their metrics "
        "are further rows, such as arc_easy/acc, which decide nothing unless a gate names them. The trainer image "
        "needs lm-eval.",
    )
    harness_path: HarnessPath | None = Field(
        default=None,
        description="Task files of one's own, which harness names. A task there replaces one of lm-eval of that name.",
    )
    report: ReportSpec = Field(default=ReportSpec(), description="Settings of report.html.")
    allow_code_execution: bool = Field(
        default=False,
        description="CodeGeneration in Python: whether programs may be run with the tests of their rows, in a sandbox "
        "without network: those of the data in prepare, and those of the models in evaluate. On a cluster the operator "
        "must allow it as well. A change prepares the data and trains again.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=None,  # The list has type set.
            message="slices must be different from each other",
            field="slices",
            holds=lambda evaluation: len(set(evaluation.slices)) == len(evaluation.slices),
        ),
        Rule(
            cel=None,  # The list has type set.
            message="harness tasks must be different from each other",
            field="harness",
            holds=lambda evaluation: len(set(evaluation.harness)) == len(evaluation.harness),
        ),
        Rule(
            cel="!has(self.harnessPath) || has(self.harness) && size(self.harness) > 0",
            message="harnessPath has no effect without harness, which names the tasks",
            field="harnessPath",
            holds=lambda evaluation: evaluation.harness_path is None or bool(evaluation.harness),
        ),
        Rule(
            cel="!has(self.gates) || self.gates.all(g, !g.metric.contains('/') || has(self.harness) && "
            "self.harness.exists(t, g.metric.startsWith(t + '/')))",
            message="a gate on task/metric needs the task in harness",
            field="gates",
            holds=lambda evaluation: all(
                not isinstance(gate.metric, HarnessMetric) or gate.metric.task in evaluation.harness
                for gate in evaluation.gates
            ),
        ),
    )

    @property
    def gated(self) -> tuple[Metric, ...]:
        """The metrics of the task that gates name, without those of ``harness``."""
        return tuple(gate.metric for gate in self.gates if isinstance(gate.metric, Metric))


class KeepSpec(ApiModel):
    """Files to keep after publication, besides the artifact."""

    checkpoints: int = Field(default=0, ge=0, le=100, description="Number of newest checkpoints to keep.")
    prepared_data: bool = Field(default=False, description="Whether to keep the tokenised data.")


class OutputSpec(ApiModel):
    """Address of the results."""

    uri: OutputUri = Field(
        description="Prefix in object storage. The artifact is at <uri>/<namespace>/<name>/r<revision>/artifact."
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the credentials for writing there. On one machine they come from the environment "
        "instead.",
    )
    keep: KeepSpec = Field(default=KeepSpec(), description="Files to keep after publication.")


class ResilienceSpec(ApiModel):
    """Restarts and timeouts."""

    max_restarts: int = Field(
        default=3, ge=0, le=100, description="Restarts after failures that may be transient; preemptions do not count."
    )
    stall_timeout_seconds: int = Field(
        default=900,
        ge=30,
        le=86400,
        description="An attempt without progress for this long is stopped and restarted.",
    )
    pending_timeout_seconds: Seconds = Field(
        default=86400,
        description="The job fails if its pods stay unschedulable or without quota for this long, or if a service that "
        "it needs does not respond once within this time.",
    )
    active_deadline_seconds: Seconds | None = Field(
        default=None, description="The job fails if it runs longer than this."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2147483647,
        description="The FineTuneJob and its pods are deleted this long after the job has finished; the artifact is "
        "kept. Omit it for a job that a GitOps tool would create again.",
    )
