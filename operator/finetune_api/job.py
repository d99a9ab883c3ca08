"""FineTuneJob as a whole: metadata, spec and status."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, JsonValue, StringConstraints

from finetune_api.base import API_GROUP, API_VERSION, KIND, ApiModel
from finetune_api.evaluation import Evaluation
from finetune_api.failures import Fault, Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.rules import DEFAULT_COLUMNS
from finetune_api.stage import STAGES, CheckpointRef, Stage
from finetune_api.tables.methods import METHODS

RESULT_FIELDS = ("model", "task", "dataset", "method", "training", "evaluation", "output")
"""Fields of the spec that decide the result: a change of one starts the next revision."""

Model = TypeVar("Model", bound=ApiModel)

_DEFAULT_EPOCHS = 3.0
_DEFAULT_SETTINGS = {row.settings.field: row.settings.model() for row in METHODS.values() if row.settings}

# The operator alone writes status, and always the whole of it: so the API server need not keep who owns which field of
# it, which takes it a third of the time of a write.
_ATOMIC_LIST: dict[str, JsonValue] = {"x-kubernetes-list-type": "atomic"}

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Timestamp = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
Digest = Annotated[str, StringConstraints(max_length=128)]
Address = Annotated[str, StringConstraints(max_length=2048)]
Sentence = Annotated[str, StringConstraints(max_length=32768)]
ShortText = Annotated[str, StringConstraints(max_length=256)]


class ObjectMeta(ApiModel):
    """The part of Kubernetes' metadata that the product reads; everything else passes untouched."""

    model_config = ConfigDict(extra="ignore")

    name: DnsLabel = Field(description="Name of the job: at most 63 lower-case letters, digits and hyphens.")
    namespace: DnsLabel = Field(default="default", description="Namespace of the job.")
    uid: str = Field(default="", description="Set by the API server.")
    generation: int = Field(default=1, description="Set by the API server: counts changes of the spec.")


class Phase(StrEnum):
    """A summary for people, derived from the rest of status; no code reads it."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    PUBLISHING = "Publishing"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    SUPERSEDED = "Superseded"
    SUCCEEDED = "Succeeded"
    REJECTED = "Rejected"
    FAILED = "Failed"


class ConditionType(StrEnum):
    ACCEPTED = "Accepted"
    DATA_PREPARED = "DataPrepared"
    TRAINED = "Trained"
    EVALUATED = "Evaluated"
    PUBLISHED = "Published"
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Condition(ApiModel):
    """One of Kubernetes' conditions."""

    type: ConditionType = Field(description="What it is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(
        pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024, description="CamelCase reason."
    )
    message: Sentence = Field(description="A sentence for people.")
    observed_generation: int = Field(ge=0, description="Generation of the spec that it speaks of.")
    last_transition_time: Timestamp = Field(description="When status last changed, RFC 3339.")


class StageState(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class StageStatus(ApiModel):
    """One stage of the current revision, from its first attempt on."""

    name: Stage = Field(description="Which stage.")
    state: StageState = Field(description="Where it is.")
    attempt: int = Field(ge=0, description="Tries so far.")
    restarts: int = Field(default=0, ge=0, description="Tries that count against maxRestarts.")
    start_time: Timestamp | None = Field(default=None, description="Start of the first try, RFC 3339.")
    attempt_start_time: Timestamp | None = Field(default=None, description="Start of the newest try, RFC 3339.")
    completion_time: Timestamp | None = Field(default=None, description="End, RFC 3339.")
    waiting_for: Reason | None = Field(default=None, description="What keeps its pods from starting.")
    message: Sentence = Field(default="", description="What came out, or what is wrong.")


class ProgressStatus(ApiModel):
    """The running stage, for people and printer columns."""

    stage: Stage = Field(description="Which stage.")
    text: ShortText = Field(description="Such as: train 40/120.")
    percent: int | None = Field(default=None, ge=0, le=100, description="Share of the stage that is done.")
    eta: ShortText | None = Field(default=None, description="Time until the stage's end, such as 3m20s.")
    loss: float | None = Field(default=None, description="Training loss.")
    tokens_per_second: float | None = Field(default=None, description="Tokens trained on a second.")


class EvaluationStatus(Evaluation):
    """The comparison, with the first metric as text for printer columns."""

    metric: ShortText = Field(description="Name of the first metric.")
    baseline_score: ShortText = Field(description="Its value for the baseline.")
    score: ShortText = Field(description="Its value for the tuned model.")


class ArtifactStatus(ApiModel):
    """What was published."""

    uri: Address = Field(description="Directory of the artifact.")
    digest: Digest = Field(description="sha256 of its manifest.")


class FailureStatus(ApiModel):
    """Why the job, or its last attempt, failed."""

    reason: Reason = Field(description="Machine-readable reason.")
    message: Sentence = Field(description="One sentence: what is wrong, where, and what to do.")
    stage: Stage = Field(description="Which stage.")
    attempt: int = Field(ge=1, description="Which try of it.")
    rank: int | None = Field(default=None, description="Rank of the process that failed first.")
    exit_code: int | None = Field(default=None, description="Exit code.")
    fault: Fault = Field(description="Who has to act: User, Cluster or Operator.")
    retried: bool = Field(description="Whether another attempt follows.")


class RevisionRecord(ApiModel):
    """A former revision and what came of it."""

    revision: int = Field(ge=1, description="Its number.")
    phase: Phase = Field(description="How it ended.")
    spec_digest: Digest = Field(description="Digest of what decided its result.")
    artifact: ArtifactStatus | None = Field(default=None, description="What it published.")
    score: ShortText | None = Field(default=None, description="Its score.")


class FineTuneJobStatus(ApiModel):
    """What the operator says about a job."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this status speaks of.")
    phase: Phase = Field(default=Phase.PENDING, description="Summary for people.")
    revision: int = Field(default=0, ge=0, description="Number of the current run.")
    spec_digest: Digest = Field(default="", description="Digest of the spec part that decides the result.")
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="What holds, for people and tools. That of a stage appears when the stage starts.",
        json_schema_extra=_ATOMIC_LIST,
    )
    stages: tuple[StageStatus, ...] = Field(
        default=(),
        max_length=8,
        description="The stages of the current revision that have started.",
        json_schema_extra=_ATOMIC_LIST,
    )
    progress: ProgressStatus | None = Field(default=None, description="The running stage.")
    evaluation: EvaluationStatus | None = Field(default=None, description="Baseline and tuned model.")
    artifact: ArtifactStatus | None = Field(default=None, description="What was published.")
    checkpoint: CheckpointRef | None = Field(default=None, description="Newest complete checkpoint.")
    failure: FailureStatus | None = Field(default=None, description="Why it failed.")
    start_time: Timestamp | None = Field(default=None, description="Start of the current revision, RFC 3339.")
    suspend_time: Timestamp | None = Field(
        default=None, description="Since when nothing of it runs, as spec.suspend asks for, RFC 3339."
    )
    resume_time: Timestamp | None = Field(
        default=None, description="When it last went on after that, RFC 3339; activeDeadlineSeconds counts from here."
    )
    completion_time: Timestamp | None = Field(default=None, description="End of the current revision, RFC 3339.")
    history: tuple[RevisionRecord, ...] = Field(
        default=(), max_length=20, description="Former revisions, newest last.", json_schema_extra=_ATOMIC_LIST
    )

    def stage(self, name: Stage) -> StageStatus:
        """The entry of a stage; that of one that has not started is made up."""
        return next((stage for stage in self.stages if stage.name is name), _NOT_STARTED[name])

    def with_stage(self, entry: StageStatus) -> FineTuneJobStatus:
        """This status with the entry of one stage added or replaced."""
        entries = {stage.name: stage for stage in self.stages} | {entry.name: entry}
        return self.model_copy(update={"stages": tuple(entries[name] for name in STAGES if name in entries)})


_NOT_STARTED = {name: StageStatus(name=name, state=StageState.PENDING, attempt=0) for name in STAGES}


class FineTuneJob(ApiModel):
    """One fine-tuning job, from data check to gated publication."""

    api_version: Literal["finetune.dev/v1alpha1"] = Field(description="Version of the API.")
    kind: Literal["FineTuneJob"] = Field(description="FineTuneJob.")
    metadata: ObjectMeta = Field(description="Name, namespace and what Kubernetes adds.")
    spec: FineTuneJobSpec = Field(description="What is wanted.")
    status: FineTuneJobStatus = Field(
        default=FineTuneJobStatus(), description="What is.", json_schema_extra={"x-kubernetes-map-type": "atomic"}
    )


def spec_digest(spec: FineTuneJobSpec) -> str:
    """Digest of what decides the result.

    Fields at their default are left out, so writing a default down, or an upgrade that adds fields, starts no new run.
    So are the names of Secrets.
    """
    decisive = _silent(spec).model_dump(mode="json", exclude_defaults=True, include=set(RESULT_FIELDS))
    return "sha256:" + hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _silent(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """``spec`` without the values that only repeat a default which depends on other fields."""
    training, method, dataset, evaluation = spec.training, spec.method, spec.dataset, spec.evaluation
    validation, test = dataset.validation, dataset.test
    unset = spec.model_copy(update={"training": training.model_copy(update={"learning_rate": None, "packing": None})})
    repeated_in_training = {
        "epochs": _DEFAULT_EPOCHS,
        "learning_rate": unset.learning_rate,
        "packing": unset.packing,
    }
    return spec.model_copy(
        update={
            "training": _without(training, repeated_in_training),
            "method": _without(method, _DEFAULT_SETTINGS),
            "dataset": dataset.model_copy(
                update={
                    "train": _anonymous(dataset.train),
                    "validation": _anonymous(validation),
                    "test": _anonymous(test),
                    "columns": _without(dataset.columns, DEFAULT_COLUMNS),
                }
            ),
            "model": _anonymous(spec.model),
            "output": _anonymous(spec.output),
            "evaluation": _without(evaluation, {"metrics": spec.task.type.row.default_metrics}),
        }
    )


def _anonymous(part: Model) -> Model:
    """``part`` without the name of its Secret: who reads does not decide what is read."""
    return part.model_copy(update={"secret_ref": None})


def _without(model: Model, repeated: dict[str, Any]) -> Model:
    return model.model_copy(update={name: None for name, value in repeated.items() if getattr(model, name) == value})


__all__ = ["API_GROUP", "API_VERSION", "KIND", "FineTuneJob", "FineTuneJobSpec", "FineTuneJobStatus", "spec_digest"]
