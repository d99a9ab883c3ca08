"""What a stage is told (StageConfig), what it says meanwhile (Progress) and what it answers (StageReport).

The same files are used by the operator's pods and by the local executor's processes.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from finetune_api.base import ApiModel
from finetune_api.evaluation import Evaluation
from finetune_api.failures import ExitCode, Reason
from finetune_api.layout import RevisionLayout
from finetune_api.spec import FineTuneJobSpec

TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes that Kubernetes keeps of a container's termination message."""

SIGNIFICANT_DIGITS = 6
"""Of the numbers in a termination message; the files in storage hold them in full."""

_LARGEST_COUNT = 2**53 - 1
"""Every reader of JSON keeps whole numbers exact up to here."""

_LATEST_TIME = 32503680000.0
"""The year 3000 in Unix time."""


def _measured(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _speakable(text: Any) -> Any:
    return text.encode(errors="replace").decode() if isinstance(text, str) else text


Measured = Annotated[float | None, BeforeValidator(_measured)]
"""A measured number; NaN and infinity, which JSON does not know, become None."""

Speakable = Annotated[str, BeforeValidator(_speakable)]
"""Text that may quote bytes which are no UTF-8 (a file name): what cannot be encoded becomes a question mark."""


# What a stage says is shown in status, whose schema has bounds: what exceeds them must not be taken for an answer.
Count = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]
Address = Annotated[str, Field(max_length=2048)]
Digest = Annotated[str, Field(max_length=128)]


class Stage(StrEnum):
    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


STAGES = tuple(Stage)
"""All stages in order."""


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


class JobIdentity(ApiModel):
    """Which run of which job a stage belongs to."""

    namespace: str = Field(description="Namespace of the FineTuneJob.")
    name: str = Field(description="Name of the FineTuneJob.")
    uid: str = Field(description="Unique id of the FineTuneJob object.")
    revision: int = Field(ge=1, description="Number of the run; a spec change that decides the result starts the next.")
    spec_digest: str = Field(description="Digest of the part of the spec that decides the result.")


class World(ApiModel):
    """The processes that a stage runs on."""

    workers: int = Field(ge=1, description="Pods.")
    processes_per_worker: int = Field(ge=1, description="Processes of each pod.")
    device: Device = Field(description="Where they compute.")

    @property
    def size(self) -> int:
        return self.workers * self.processes_per_worker


class StageConfig(ApiModel):
    """``stage.json``: everything that a stage needs to know."""

    job: JobIdentity = Field(description="Which run of which job.")
    stage: Stage = Field(description="Which stage.")
    attempt: int = Field(ge=1, description="Which try of it.")
    spec: FineTuneJobSpec = Field(description="The spec that the revision started with.")
    world: World = Field(description="The processes of this stage.")
    workspace: str = Field(default="/workspace", description="Scratch directory; empty at the start of a pod.")
    termination_message_path: str = Field(
        default="/dev/termination-log", description="Where the StageReport is written."
    )
    port: int = Field(default=9400, ge=1, le=65535, description="Port of /metrics and /progress.")
    listen: str = Field(default="0.0.0.0", description="Address that the port is opened on.")
    main_address: str = Field(default="127.0.0.1", description="Host of worker 0, where the processes meet.")
    main_port: int = Field(default=29400, ge=1, le=65535, description="Port on worker 0 where the processes meet.")

    @property
    def layout(self) -> RevisionLayout:
        """Addresses of the revision in object storage."""
        job = self.job
        return RevisionLayout.of(self.spec.output.uri, job.namespace, job.name, job.revision)


class CheckpointRef(ApiModel):
    """A complete checkpoint in storage."""

    step: Count = Field(description="Optimizer steps done.")
    uri: Address = Field(description="Its directory.")


class Progress(ApiModel):
    """``/progress``: where a stage is. Everything but stage, activity and time is None until known."""

    stage: Stage = Field(description="Which stage.")
    attempt: int = Field(ge=1, description="Which try of it.")
    activity: str = Field(max_length=200, description="What it is doing, in words.")
    updated_at: float = Field(
        ge=0, le=_LATEST_TIME, description="Unix time of the last sign of life from the work itself, in seconds."
    )
    done: Count | None = Field(default=None, description="Units of work done: optimizer steps, or examples.")
    total: Count | None = Field(default=None, description="Units of work in all.")
    unit: str = Field(default="steps", max_length=32, description="Name of the unit.")
    eta_seconds: float | None = Field(
        default=None, ge=0, le=_LARGEST_COUNT, description="Seconds until the stage's end."
    )
    epoch: float | None = Field(default=None, ge=0, description="Epochs done.")
    loss: Measured = Field(default=None, description="Training loss of the last step, nats per token or example.")
    validation_loss: Measured = Field(default=None, description="Last loss on the validation split.")
    learning_rate: float | None = Field(default=None, description="Learning rate of the last step.")
    tokens_per_second: float | None = Field(
        default=None, ge=0, description="Tokens trained on a second, all processes."
    )
    checkpoint: CheckpointRef | None = Field(default=None, description="Newest complete checkpoint.")


class PrepareResult(ApiModel):
    """What prepare found."""

    stage: Literal[Stage.PREPARE] = Field(default=Stage.PREPARE, description="The stage that found it.")
    uri: Address = Field(description="Directory of the prepared data.")
    digest: Digest = Field(description="Digest of its manifest.")
    examples: dict[str, Count] = Field(description="Examples by split: train, validation, test.")
    tokens: Count = Field(description="Tokens of the train split.")
    duplicates: Count = Field(description="Rows dropped because they were there already.")
    invalid: Count = Field(description="Rows dropped because they were invalid.")
    labels: Count | None = Field(default=None, description="TextClassification: number of labels.")
    parameters: Count = Field(description="Parameters of the base model.")


class TrainResult(ApiModel):
    """What train reached."""

    stage: Literal[Stage.TRAIN] = Field(default=Stage.TRAIN, description="The stage that found it.")
    uri: Address = Field(description="Directory of the trained weights.")
    digest: Digest = Field(description="Digest of its manifest.")
    steps: Count = Field(description="Optimizer steps.")
    epochs: float = Field(ge=0, description="Epochs.")
    loss: float = Field(description="Training loss over the last tenth of the steps.")
    validation_loss: Measured = Field(default=None, description="Loss on the validation split at the end.")
    tokens: Count = Field(description="Tokens trained on.")
    tokens_per_second: float = Field(ge=0, description="Tokens trained on a second, all processes.")
    stopped_early: bool = Field(description="Whether early stopping ended it.")
    trainable_parameters: Count = Field(description="Parameters that were trained.")


class EvaluateResult(ApiModel):
    """What evaluate measured."""

    stage: Literal[Stage.EVALUATE] = Field(default=Stage.EVALUATE, description="The stage that found it.")
    uri: Address = Field(description="Directory of evaluation.json, report.html and the predictions.")
    digest: Digest = Field(description="Digest of its manifest.")
    evaluation: Evaluation = Field(description="The comparison.")


class PublishResult(ApiModel):
    """What publish stored."""

    stage: Literal[Stage.PUBLISH] = Field(default=Stage.PUBLISH, description="The stage that found it.")
    uri: Address = Field(description="Directory of the artifact.")
    digest: Digest = Field(description="Digest of its manifest: the artifact's digest.")
    size: Count = Field(description="Bytes.")


StageResult = Annotated[
    PrepareResult | TrainResult | EvaluateResult | PublishResult,
    Field(discriminator="stage"),
]
"""What came out of a stage."""


class StageError(ApiModel):
    """Why a stage ended early."""

    reason: Reason = Field(description="Machine-readable reason.")
    message: Speakable = Field(description="One sentence: what is wrong, where, and what to do.")
    exit_code: int = Field(ge=0, le=255, description="Exit code of the stage's process.")
    rank: Count | None = Field(default=None, description="Rank of the process that failed first.")


class StageReport(ApiModel):
    """The termination message: one result, or an error."""

    stage: Stage = Field(description="Which stage.")
    attempt: int = Field(ge=1, description="Which try of it.")
    seconds: float = Field(ge=0, description="How long it ran.")
    result: StageResult | None = Field(default=None, description="What came out of the stage.")
    checkpoint: CheckpointRef | None = Field(default=None, description="Newest complete checkpoint, of train.")
    error: StageError | None = Field(default=None, description="Why it ended early.")

    @property
    def exit_code(self) -> int:
        return self.error.exit_code if self.error else ExitCode.DONE

    def to_termination_message(self) -> bytes:
        """Compact JSON of at most 4 KiB; an over-long error message is cut, never the structure."""
        encoded = self._encode()
        if self.error and (excess := len(encoded) - TERMINATION_MESSAGE_LIMIT) > 0:
            # JSON escapes take up to six bytes a character, so cut by encoded length, not by characters.
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
