"""The FineTuneJob object: metadata, spec and status."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, StringConstraints

from finetune_api.base import API_GROUP, API_VERSION, KIND, ApiModel
from finetune_api.evaluation import Evaluation
from finetune_api.failures import Fault, Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import STAGES, CheckpointRef, Stage

# Only the operator writes status, and it always writes the entire status. Atomic lists save the API server from
# tracking field ownership, which takes a third of the time of a write.
_ATOMIC_LIST: dict[str, JsonValue] = {"x-kubernetes-list-type": "atomic"}

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Timestamp = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
Digest = Annotated[str, StringConstraints(max_length=128)]
Address = Annotated[str, StringConstraints(max_length=2048)]
Sentence = Annotated[str, StringConstraints(max_length=32768)]
ShortText = Annotated[str, StringConstraints(max_length=256)]


class ObjectMeta(ApiModel):
    """The fields of ``metadata`` that the operator and the CLI read; others are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: DnsLabel = Field(description="Name of the job: at most 63 lower-case letters, digits and hyphens.")
    namespace: DnsLabel = Field(default="default", description="Namespace of the job.")
    uid: str = Field(default="", description="Set by the API server.")
    generation: int = Field(default=1, description="Set by the API server: counts changes of the spec.")
    labels: dict[str, str] = Field(default={}, description="Labels; the chart can name some that the pods get as well.")


class Phase(StrEnum):
    """A summary for users, derived from the rest of status; no code depends on it."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    RESPONDING = "Responding"
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
    RESPONDED = "Responded"
    TRAINED = "Trained"
    EVALUATED = "Evaluated"
    PUBLISHED = "Published"
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Condition(ApiModel):
    """A Kubernetes condition."""

    type: ConditionType = Field(description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Status of the condition.")
    reason: str = Field(
        pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024, description="CamelCase reason."
    )
    message: Sentence = Field(description="Human-readable message.")
    observed_generation: int = Field(ge=0, description="metadata.generation that the condition was set for.")
    last_transition_time: Timestamp = Field(description="When the status of the condition last changed, RFC 3339.")


class StageState(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class StageStatus(ApiModel):
    """A stage of the current revision that has started; respond also before, in a revision that has it."""

    name: Stage = Field(description="Name of the stage.")
    state: StageState = Field(description="State of the stage.")
    attempt: int = Field(ge=0, description="Number of attempts so far.")
    restarts: int = Field(default=0, ge=0, description="Attempts that count towards maxRestarts.")
    start_time: Timestamp | None = Field(default=None, description="Start of the first attempt, RFC 3339.")
    attempt_start_time: Timestamp | None = Field(default=None, description="Start of the newest attempt, RFC 3339.")
    completion_time: Timestamp | None = Field(default=None, description="End of the stage, RFC 3339.")
    paused_seconds: int = Field(
        default=0, ge=0, le=2**53 - 1, description="Seconds since its start in which the job was suspended or stopped."
    )
    waiting_for: Reason | None = Field(default=None, description="Why its pods do not start.")
    waiting_since: Timestamp | None = Field(default=None, description="Since when its pods do not start, RFC 3339.")
    incomplete_since: Timestamp | None = Field(
        default=None, description="Since when some workers wait on their nodes for others that have none, RFC 3339."
    )
    unavailable_since: Timestamp | None = Field(
        default=None, description="Since when a service that it needs has not responded once, RFC 3339."
    )
    retry_time: Timestamp | None = Field(default=None, description="When the next attempt starts, RFC 3339.")
    message: Sentence = Field(default="", description="Result of the stage, or what is wrong.")


class ProgressStatus(ApiModel):
    """Progress of the running stage, for users and printer columns."""

    stage: Stage = Field(description="Name of the stage.")
    text: ShortText = Field(description="Progress in words, such as train 40/120.")
    percent: int | None = Field(default=None, ge=0, le=100, description="Percentage of the stage that is done.")
    eta: ShortText | None = Field(default=None, description="Estimated time to the end of the stage, such as 3m20s.")
    loss: float | None = Field(default=None, description="Training loss.")
    tokens_per_second: float | None = Field(default=None, description="Training throughput of all processes.")


class EvaluationStatus(Evaluation):
    """The comparison with the baseline, and the first metric as text for printer columns."""

    uri: Address = Field(
        default="", description="Directory of evaluation.json, report.html and the predictions, also if a gate fails."
    )
    metric: ShortText = Field(description="Name of the first metric.")
    baseline_score: ShortText = Field(description="First metric of the baseline.")
    score: ShortText = Field(description="First metric of the tuned model.")


class ArtifactStatus(ApiModel):
    """The published artifact."""

    uri: Address = Field(description="Directory of the artifact.")
    digest: Digest = Field(description="sha256 digest of the manifest of the artifact.")


class FailureStatus(ApiModel):
    """Why the job or its last attempt failed."""

    reason: Reason = Field(description="Machine-readable reason.")
    message: Sentence = Field(description="One sentence: what is wrong, where, and what to do.")
    stage: Stage = Field(description="Stage that failed.")
    attempt: int = Field(ge=1, description="Attempt that failed.")
    rank: int | None = Field(default=None, description="Rank of the process that failed first.")
    exit_code: int | None = Field(default=None, description="Exit code of the process of the stage.")
    fault: Fault = Field(description="Who has to act: User, Cluster or Operator.")
    retried: bool = Field(description="Whether the operator starts another attempt.")
    retry_after: Timestamp | None = Field(
        default=None, description="When an endpoint allows the next attempt (Retry-After), RFC 3339."
    )


class TrainingStatus(ApiModel):
    """The training that a revision uses: its own, or that of an earlier revision with the same inputs."""

    revision: int = Field(
        ge=1, description="Revision whose directory contains the prepared data, the checkpoints and the weights."
    )
    spec_digest: Digest = Field(description="Digest of the spec fields that determine the weights.")
    inputs_digest: Digest = Field(default="", description="Digest of the data and the base model.")
    weights_digest: Digest = Field(default="", description="Digest of the manifest of the trained weights.")
    deleted: bool = Field(default=False, description="Whether a later publication has deleted the data and weights.")


class StageAttempts(ApiModel):
    """How often a stage was attempted."""

    name: Stage = Field(description="Name of the stage.")
    attempts: int = Field(ge=1, description="Number of attempts.")


class RevisionRecord(ApiModel):
    """A previous revision and its outcome."""

    revision: int = Field(ge=1, description="Number of the revision.")
    phase: Phase = Field(description="Phase in which it ended.")
    spec_digest: Digest = Field(description="Digest of the spec fields that determine the result.")
    artifact: ArtifactStatus | None = Field(default=None, description="Artifact that it published.")
    score: ShortText | None = Field(default=None, description="First metric of its tuned model.")
    training: TrainingStatus | None = Field(default=None, description="The training that it used.")
    start_time: Timestamp | None = Field(default=None, description="Start of the revision, RFC 3339.")
    completion_time: Timestamp | None = Field(default=None, description="End of the revision, RFC 3339.")
    attempts: tuple[StageAttempts, ...] = Field(
        default=(), max_length=8, description="Attempts of its stages.", json_schema_extra=_ATOMIC_LIST
    )


class FineTuneJobStatus(ApiModel):
    """The observed state of a job, written by the operator."""

    observed_generation: int = Field(
        default=0, ge=0, description="metadata.generation that this status was computed for."
    )
    phase: Phase = Field(default=Phase.PENDING, description="Summary for users.")
    revision: int = Field(default=0, ge=0, description="Number of the current revision.")
    spec_digest: Digest = Field(default="", description="Digest of the spec fields that determine the result.")
    training: TrainingStatus | None = Field(default=None, description="The training that the revision uses.")
    earlier_attempts: tuple[StageAttempts, ...] = Field(
        default=(),
        max_length=8,
        description="Attempts of the stages before the job returned to this revision.",
        json_schema_extra=_ATOMIC_LIST,
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="Conditions of the job. The condition of a stage is added when the stage starts.",
        json_schema_extra=_ATOMIC_LIST,
    )
    stages: tuple[StageStatus, ...] = Field(
        default=(),
        max_length=8,
        description="The stages of the current revision that have started, and respond if it has that stage.",
        json_schema_extra=_ATOMIC_LIST,
    )
    progress: ProgressStatus | None = Field(default=None, description="Progress of the running stage.")
    evaluation: EvaluationStatus | None = Field(
        default=None, description="Comparison of the tuned model with the baseline."
    )
    artifact: ArtifactStatus | None = Field(default=None, description="The published artifact.")
    checkpoint: CheckpointRef | None = Field(default=None, description="Newest complete checkpoint.")
    failure: FailureStatus | None = Field(default=None, description="Why the job or its last attempt failed.")
    start_time: Timestamp | None = Field(default=None, description="Start of the current revision, RFC 3339.")
    suspend_time: Timestamp | None = Field(
        default=None, description="When the job became suspended, with no pods left, RFC 3339."
    )
    resume_time: Timestamp | None = Field(
        default=None, description="When the job was last resumed, RFC 3339; activeDeadlineSeconds counts from then."
    )
    completion_time: Timestamp | None = Field(default=None, description="End of the current revision, RFC 3339.")
    history: tuple[RevisionRecord, ...] = Field(
        default=(), max_length=20, description="Previous revisions, newest last.", json_schema_extra=_ATOMIC_LIST
    )

    def stage(self, name: Stage) -> StageStatus:
        """The entry of a stage; Pending with attempt 0 when the stage has not started."""
        return next((stage for stage in self.stages if stage.name is name), _NOT_STARTED[name])

    @property
    def planned(self) -> tuple[Stage, ...]:
        """The stages of this revision in order: respond only if it was entered when the revision started."""
        optional = {stage.name for stage in self.stages} & {Stage.RESPOND}
        return tuple(name for name in STAGES if name is not Stage.RESPOND or name in optional)

    def attempts(self, name: Stage) -> int:
        """Number of attempts of a stage in this revision, also before the job returned to it."""
        return max(self.stage(name).attempt, self.attempts_before(name))

    def attempts_before(self, name: Stage) -> int:
        """Number of attempts of a stage before the job returned to this revision."""
        return next((entry.attempts for entry in self.earlier_attempts if entry.name is name), 0)

    def with_stage(self, entry: StageStatus) -> FineTuneJobStatus:
        """This status with the entry of one stage added or replaced."""
        entries = {stage.name: stage for stage in self.stages} | {entry.name: entry}
        return self.model_copy(update={"stages": tuple(entries[name] for name in STAGES if name in entries)})


_NOT_STARTED = {name: StageStatus(name=name, state=StageState.PENDING, attempt=0) for name in STAGES}


class FineTuneJob(ApiModel):
    """One fine-tuning job, from data check to gated publication."""

    api_version: Literal["finetune.dev/v1alpha1"] = Field(description="Version of the API.")
    kind: Literal["FineTuneJob"] = Field(description="FineTuneJob.")
    metadata: ObjectMeta = Field(description="Kubernetes metadata.")
    spec: FineTuneJobSpec = Field(description="Desired state.")
    status: FineTuneJobStatus = Field(
        default=FineTuneJobStatus(),
        description="Observed state.",
        json_schema_extra={"x-kubernetes-map-type": "atomic"},
    )


__all__ = [
    "API_GROUP",
    "API_VERSION",
    "KIND",
    "FineTuneJob",
    "FineTuneJobSpec",
    "FineTuneJobStatus",
]
