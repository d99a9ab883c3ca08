"""How the result is measured, where it goes, and what happens when something fails."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.spec.inputs import SecretRef
from finetune_api.tables.metrics import Metric
from finetune_api.tables.tasks import TASKS
from finetune_api.vocabulary import OutputUri, Seconds

_DEFAULT_METRICS = "; ".join(f"{', '.join(row.default_metrics)} for {task}" for task, row in TASKS.items())


class Gate(ApiModel):
    """What the tuned model must reach on the test split, or it is not published."""

    metric: Metric = Field(description="A metric of the task.")
    minimum: float | None = Field(default=None, description="The tuned model's value must be at least this.")
    maximum: float | None = Field(default=None, description="The tuned model's value may be at most this.")
    minimum_improvement: float | None = Field(
        default=None,
        description="The tuned model must be better than the baseline by at least this, in the metric's own unit.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.minimum), has(self.maximum), has(self.minimumImprovement)].exists_one(x, x)",
            message="give one of minimum, maximum and minimumImprovement",
            field="metric",
            holds=lambda gate: (
                sum(bound is not None for bound in (gate.minimum, gate.maximum, gate.minimum_improvement)) == 1
            ),
        ),
    )


class GenerationSpec(ApiModel):
    """How answers are generated, greedily, for metrics that need them."""

    max_new_tokens: int = Field(default=128, ge=1, le=8192, description="Most tokens of an answer.")


class EvaluationSpec(ApiModel):
    """How the result is measured beside the base model."""

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=8)] | None = Field(
        default=None,
        description=f"What is measured; the first is the score that status shows. Default: {_DEFAULT_METRICS}.",
    )
    gates: Annotated[tuple[Gate, ...], Field(max_length=16)] = Field(
        default=(), description="All must hold, or the result is not published."
    )
    generation: GenerationSpec = Field(default=GenerationSpec(), description="Settings of generated answers.")


class KeepSpec(ApiModel):
    """What stays beside the artifact after it is published."""

    checkpoints: int = Field(default=0, ge=0, le=100, description="Newest checkpoints that stay.")
    prepared_data: bool = Field(default=False, description="Whether the tokenised data stays.")


class OutputSpec(ApiModel):
    """Where the result goes."""

    uri: OutputUri = Field(
        description="Prefix in object storage. The result lies at <uri>/<namespace>/<name>/r<revision>/artifact."
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the credentials for writing there. On one machine they come from the environment "
        "instead.",
    )
    keep: KeepSpec = Field(default=KeepSpec(), description="What stays beside the artifact after it is published.")


class ResilienceSpec(ApiModel):
    """What happens when something fails."""

    max_restarts: int = Field(
        default=3, ge=0, le=100, description="New attempts after a failure that may pass; preemption is not counted."
    )
    stall_timeout_seconds: int = Field(
        default=900,
        ge=30,
        le=86400,
        description="An attempt that shows no progress for so long is ended and tried again.",
    )
    pending_timeout_seconds: Seconds = Field(
        default=86400,
        description="The job fails when pods that are to run find no node or no quota for so long.",
    )
    active_deadline_seconds: Seconds | None = Field(default=None, description="The whole job is ended after so long.")
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2147483647,
        description="The FineTuneJob and its pods are deleted so long after the end; what was published stays. Leave "
        "it out for a job that a GitOps tool would create again.",
    )
