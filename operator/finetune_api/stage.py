"""The interface of a stage: its configuration (StageConfig), progress (Progress) and result (StageReport).

The pods of the operator and the processes of the local executor use the same files.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from finetune_api.base import ApiModel
from finetune_api.evaluation import Evaluation
from finetune_api.failures import LONGEST_WAIT, ExitCode, Reason
from finetune_api.layout import JobLayout, RevisionLayout
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_api.text import clean
from finetune_api.vocabulary import Currency

TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes that Kubernetes keeps of a container's termination message."""

HEARTBEAT_NAME = "heartbeat"
"""The file in the workspace that a stage touches at every sign of progress."""

CA_BUNDLE_VARIABLE = "FINETUNE_CA_BUNDLE"
"""Environment variable: a PEM file of certificate authorities that a stage trusts besides the public ones."""

SIGNIFICANT_DIGITS = 6
"""Precision of numbers in a termination message; the files in storage have full precision."""

_LARGEST_COUNT = 2**53 - 1
"""The largest integer that every JSON parser reads exactly."""

_LATEST_TIME = 32503680000.0
"""The year 3000 in Unix time."""


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clean(text: Any) -> Any:
    return clean(text) if isinstance(text, str) else text


Measured = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A measured number; NaN and infinity become None, because JSON cannot represent them."""

Foreign = Annotated[str, BeforeValidator(_clean)]
"""Text that may quote data, names of files or libraries."""


# The operator copies these values into status, whose schema has bounds. A report that exceeds them must be invalid.
Count = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]
Address = Annotated[str, Field(max_length=2048)]
Digest = Annotated[str, Field(max_length=128)]


class Stage(StrEnum):
    PREPARE = "prepare"
    RESPOND = "respond"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


STAGES = tuple(Stage)
"""All stages in order. Only a job whose teacher generates answers has respond."""


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


class JobIdentity(ApiModel):
    """The job and the revision that a stage belongs to."""

    namespace: str = Field(description="Namespace of the FineTuneJob.")
    name: str = Field(description="Name of the FineTuneJob.")
    uid: str = Field(description="Unique id of the FineTuneJob object.")
    revision: int = Field(
        ge=1, description="Number of the revision; a spec change that affects the result starts a new one."
    )
    spec_digest: str = Field(description="Digest of the spec fields that determine the result.")
    training_revision: int = Field(
        ge=1, description="Revision whose directory contains the prepared data, the checkpoints and the weights."
    )
    training_digest: str = Field(description="Digest of the spec fields that determine the weights.")


class World(ApiModel):
    """The processes of a stage."""

    workers: int = Field(ge=1, description="Number of pods.")
    processes_per_worker: int = Field(ge=1, description="Number of processes in each pod.")
    device: Device = Field(description="Device that the processes compute on.")

    @property
    def size(self) -> int:
        """The world size."""
        return self.workers * self.processes_per_worker


class PreviousRevision(ApiModel):
    """The last earlier revision of the job that was published with other weights."""

    revision: int = Field(ge=1, description="Number of the revision.")
    uri: Address = Field(description="Directory of its artifact.")
    digest: Digest = Field(description="Digest of its artifact.")


class CodeExecution(ApiModel):
    """Where a stage runs generated programs."""

    socket: Address | None = Field(
        default=None,
        description="Unix socket of the container that runs them; without it, they are processes of the stage.",
    )


class StageConfig(ApiModel):
    """``stage.json``: the configuration of a stage."""

    job: JobIdentity = Field(description="Job and revision.")
    stage: Stage = Field(description="Name of the stage.")
    attempt: int = Field(ge=1, description="Number of the attempt, from 1.")
    spec: FineTuneJobSpec = Field(description="The spec that the revision started with.")
    world: World = Field(description="The processes of this stage.")
    workspace: str = Field(default="/workspace", description="Scratch directory; empty when a pod starts.")
    termination_message_path: str = Field(default="/dev/termination-log", description="File for the StageReport.")
    port: int = Field(default=9400, ge=1, le=65535, description="Port of /metrics and /progress.")
    listen: str = Field(default="0.0.0.0", description="Address to listen on.")
    main_address: str = Field(default="127.0.0.1", description="MASTER_ADDR of torch.distributed: host of worker 0.")
    main_port: int = Field(default=29400, ge=1, le=65535, description="MASTER_PORT of torch.distributed, on worker 0.")
    previous: PreviousRevision | None = Field(
        default=None,
        description="evaluation.baseline Previous without model.adapter: what to measure against; absent if no earlier "
        "revision was published.",
    )
    code_execution: CodeExecution | None = Field(
        default=None, description="Where this stage runs generated programs; it must not without this."
    )
    dry_run: bool = Field(
        default=False, description="Whether prepare only counts what it would ask an endpoint, and asks nothing."
    )

    @property
    def layout(self) -> RevisionLayout:
        """Addresses of the revision in object storage."""
        return self.job_layout.revision(self.job.revision, self.job.training_revision)

    @property
    def job_layout(self) -> JobLayout:
        """Addresses of the job in object storage."""
        return JobLayout.of(self.spec.output.uri, self.job.namespace, self.job.name)


class CheckpointRef(ApiModel):
    """A complete checkpoint in storage."""

    step: Count = Field(description="Optimizer steps done.")
    uri: Address = Field(description="Directory of the checkpoint.")


class Progress(ApiModel):
    """``/progress``: the progress of a stage. Values are None until they are known."""

    stage: Stage = Field(description="Name of the stage.")
    attempt: int = Field(ge=1, description="Number of the attempt, from 1.")
    activity: Foreign = Field(max_length=200, description="Current activity, in words.")
    updated_at: float = Field(
        ge=0, le=_LATEST_TIME, description="Unix time of the last progress report of a worker process, in seconds."
    )
    done: Count | None = Field(default=None, description="Units of work done: optimizer steps, or examples.")
    total: Count | None = Field(default=None, description="Total units of work.")
    unit: Foreign = Field(default="steps", max_length=32, description="Name of the unit.")
    eta_seconds: float | None = Field(
        default=None, ge=0, le=_LARGEST_COUNT, description="Estimated seconds to the end of the stage."
    )
    epoch: float | None = Field(default=None, ge=0, description="Epochs done.")
    loss: Measured = Field(default=None, description="Training loss of the last step, in nats per token or example.")
    validation_loss: Measured = Field(default=None, description="Last loss on the validation split.")
    cross_entropy: Measured = Field(
        default=None, description="With a teacher: the part of the loss that the labels teach, before its weight."
    )
    divergence: Measured = Field(
        default=None,
        description="With a teacher: KL(teacher ‖ student) at distillation.temperature in the last step, in nats, "
        "before its weight and T².",
    )
    learning_rate: float | None = Field(default=None, description="Learning rate of the last step.")
    tokens_per_second: float | None = Field(default=None, ge=0, description="Training throughput of all processes.")
    checkpoint: CheckpointRef | None = Field(default=None, description="Newest complete checkpoint.")


NOTE_LENGTH = 160
LONG_NOTE_LENGTH = 400
"""Of a note with an address."""
MOST_NOTES = 5
MOST_PROBLEMS = 8
"""Of answers that were left out."""


class TeacherAnswers(ApiModel):
    """The answers of a teacher, and what they cost."""

    used: Count = Field(description="Training and validation prompts with an answer that is learned.")
    left_out: Count = Field(description="Training and validation prompts without one.")
    suspect: Count = Field(default=0, description="Answers that are learned and read like a refusal.")
    requests: Count | None = Field(
        default=None, description="Requests to the endpoint in this attempt, retries included; absent without one."
    )
    retries: Count = Field(default=0, description="Requests that repeated an earlier one.")
    kept: Count = Field(default=0, description="Answers that were in storage, and were not asked again.")
    prompt_tokens: Count = Field(description="Tokens of the prompts, also of answers that were in storage.")
    completion_tokens: Count = Field(description="Tokens of the answers, likewise.")
    cost: float | None = Field(
        default=None, ge=0, description="Cost of these tokens by distillation.teacher.prices; absent without prices."
    )
    currency: Currency | None = Field(default=None, description="Currency of the cost.")
    problems: tuple[Annotated[Foreign, Field(max_length=NOTE_LENGTH)], ...] = Field(
        default=(),
        max_length=MOST_PROBLEMS,
        description="Why prompts were left out and at which lines, the most frequent first.",
    )


class PrepareResult(ApiModel):
    """The result of prepare."""

    stage: Literal[Stage.PREPARE] = Field(default=Stage.PREPARE, description="Name of the stage.")
    uri: Address = Field(description="Directory of the prepared data, or of the report if a teacher answers later.")
    digest: Digest = Field(description="Digest of the manifest of the directory.")
    inputs_digest: Digest = Field(description="Digest of the data and the base model.")
    examples: dict[str, Count] = Field(description="Examples by split: train, validation, test.")
    tokens: Count = Field(description="Tokens of the train split.")
    duplicates: Count = Field(description="Rows dropped as duplicates.")
    invalid: Count = Field(description="Rows dropped as invalid.")
    notes: tuple[Annotated[Foreign, Field(max_length=NOTE_LENGTH)], ...] = Field(
        default=(), max_length=MOST_NOTES, description="What the user should know about the data."
    )
    labels: Count | None = Field(default=None, description="TextClassification: number of labels.")
    parameters: Count = Field(description="Parameters of the base model.")
    rounded_parameters: Count | None = Field(
        default=None, description="Those that model.quantization rounds; absent without it."
    )
    teacher_parameters: Count | None = Field(
        default=None, description="Parameters of the teacher, if it is a model and no endpoint."
    )
    detected: Foreign = Field(default="", max_length=300, description="What the data was read as, in words.")
    responses: TeacherAnswers | None = Field(
        default=None, description="distillation.mode Responses: the answers of the teacher."
    )


class RespondResult(ApiModel):
    """The result of respond."""

    stage: Literal[Stage.RESPOND] = Field(default=Stage.RESPOND, description="Name of the stage.")
    uri: Address = Field(description="Directory of the prepared data, with the answers of the teacher.")
    digest: Digest = Field(description="Digest of the manifest of the directory.")
    examples: dict[str, Count] = Field(description="Examples by split: train, validation, test.")
    tokens: Count = Field(description="Tokens of the train split.")
    responses: TeacherAnswers = Field(description="The answers of the teacher.")
    notes: tuple[Annotated[Foreign, Field(max_length=NOTE_LENGTH)], ...] = Field(
        default=(), max_length=MOST_NOTES, description="What the user should know about the answers."
    )


class SearchSummary(ApiModel):
    """What a search for a prompt has found, on the validation split."""

    metric: str = Field(max_length=64, description="The metric that combinations are compared by.")
    best: float = Field(description="Its value with the best combination.")
    plain: float = Field(description="Its value with the plain prompt: the default instruction, without examples.")
    distinct: Count = Field(description="Combinations that there are.")


class TrainResult(ApiModel):
    """The result of train."""

    stage: Literal[Stage.TRAIN] = Field(default=Stage.TRAIN, description="Name of the stage.")
    uri: Address = Field(description="Directory of the trained weights.")
    digest: Digest = Field(description="Digest of the manifest of the directory.")
    steps: Count = Field(description="Optimizer steps done, or combinations scored.")
    epochs: float = Field(ge=0, description="Epochs done.")
    loss: float | None = Field(
        default=None, description="Training loss over the last tenth of the steps; absent for a method without a loss."
    )
    validation_loss: Measured = Field(default=None, description="Loss on the validation split at the end.")
    tokens: Count = Field(description="Tokens trained on, or read and written by a search.")
    tokens_per_second: float = Field(ge=0, description="Training throughput of all processes.")
    stopped_early: bool = Field(description="Whether early stopping ended the training.")
    trainable_parameters: Count = Field(description="Number of trained parameters.")
    search: SearchSummary | None = Field(default=None, description="What a search for a prompt has found.")


class EvaluateResult(ApiModel):
    """The result of evaluate."""

    stage: Literal[Stage.EVALUATE] = Field(default=Stage.EVALUATE, description="Name of the stage.")
    uri: Address = Field(description="Directory of evaluation.json, report.html and the predictions.")
    digest: Digest = Field(description="Digest of the manifest of the directory.")
    evaluation: Evaluation = Field(description="The comparison with the baseline.")


class PublishResult(ApiModel):
    """The result of publish."""

    stage: Literal[Stage.PUBLISH] = Field(default=Stage.PUBLISH, description="Name of the stage.")
    uri: Address = Field(description="Directory of the artifact.")
    digest: Digest = Field(description="Digest of the artifact: that of its manifest.")
    size: Count = Field(description="Size of the artifact in bytes.")
    note: str = Field(default="", max_length=LONG_NOTE_LENGTH, description="What could not be deleted, and why.")


StageResult = Annotated[
    PrepareResult | RespondResult | TrainResult | EvaluateResult | PublishResult,
    Field(discriminator="stage"),
]
"""The result of a stage."""


class StageError(ApiModel):
    """Why a stage failed or was stopped."""

    reason: Reason = Field(description="Machine-readable reason.")
    message: Foreign = Field(description="One sentence: what is wrong, where, and what to do.")
    exit_code: int = Field(ge=0, le=255, description="Exit code of the process of the stage.")
    rank: Count | None = Field(default=None, description="Rank of the process that failed first.")
    retry_after_seconds: int | None = Field(
        default=None, ge=0, le=LONGEST_WAIT, description="Seconds before which a service asks for no other attempt."
    )
    progressed: bool = Field(default=False, description="Whether the service has answered before in this attempt.")


class StageReport(ApiModel):
    """The termination message of the container: a result or an error."""

    stage: Stage = Field(description="Name of the stage.")
    attempt: int = Field(ge=1, description="Number of the attempt, from 1.")
    seconds: float = Field(ge=0, description="Duration in seconds.")
    result: StageResult | None = Field(default=None, description="Result of the stage.")
    checkpoint: CheckpointRef | None = Field(default=None, description="Newest complete checkpoint of train.")
    error: StageError | None = Field(default=None, description="Why the stage failed or was stopped.")

    @property
    def exit_code(self) -> int:
        return self.error.exit_code if self.error else ExitCode.DONE

    def to_termination_message(self) -> bytes:
        """The report as compact JSON of at most 4096 bytes; an error message that is too long is truncated, and the
        metrics of lm-eval that no gate names, and then slices and notes of an evaluation, are left out if there is no
        room for them, as are the last problems of the answers of a teacher.
        """
        encoded = self._encode()
        if isinstance(self.result, PrepareResult | RespondResult) and (answers := self.result.responses):
            for kept in range(len(answers.problems), -1, -1):
                shorter = answers.model_copy(update={"problems": answers.problems[:kept]})
                result = self.result.model_copy(update={"responses": shorter})
                encoded = self.model_copy(update={"result": result})._encode()
                if len(encoded) <= TERMINATION_MESSAGE_LIMIT:
                    break
        if isinstance(self.result, EvaluateResult) and len(encoded) > TERMINATION_MESSAGE_LIMIT:
            evaluation = self.result.evaluation
            gated = {gate.metric for gate in evaluation.gates}
            metrics = tuple(one for one in evaluation.metrics if isinstance(one.name, Metric) or one.name in gated)
            for left_out in ({"metrics": metrics}, {"metrics": metrics, "slices": (), "notes": ()}):
                evaluated = self.result.model_copy(update={"evaluation": evaluation.model_copy(update=left_out)})
                encoded = self.model_copy(update={"result": evaluated})._encode()
                if len(encoded) <= TERMINATION_MESSAGE_LIMIT:
                    break
        if self.error and (excess := len(encoded) - TERMINATION_MESSAGE_LIMIT) > 0:
            # A character takes up to six bytes in JSON, so the encoded length decides how much to truncate.
            message = self.error.message
            while excess > 0 and message:
                message = message[: -max(excess // 6, 1)]
                error = self.error.model_copy(update={"message": message + "…"})
                encoded = self.model_copy(update={"error": error})._encode()
                excess = len(encoded) - TERMINATION_MESSAGE_LIMIT
        return encoded

    def _encode(self) -> bytes:
        document = _rounded(self.model_dump(mode="json", exclude_none=True))
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _rounded(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _rounded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_rounded(value) for value in node]
    return float(f"{node:.{SIGNIFICANT_DIGITS}g}") if isinstance(node, float) else node
