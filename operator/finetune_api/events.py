"""Worker events: what the worker processes of a stage tell their host, one JSON object a line."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from finetune_api.failures import Reason
from finetune_api.stage import StageResult


class _Event(BaseModel):
    # A gradient norm may be infinite, as FP16 has it while the loss scale is found.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class ProgressEvent(_Event):
    """What the stage is doing, and how far it is."""

    event: Literal["progress"] = "progress"
    activity: str
    done: int | None = None
    total: int | None = None
    unit: str = "steps"


class StepEvent(_Event):
    """One logged optimizer step."""

    event: Literal["step"] = "step"
    step: int
    total: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float | None
    tokens: int
    """Tokens of the steps since the last event, all processes."""
    seconds: float
    """Mean duration of these steps."""
    memory: int
    """Peak memory of rank 0, in bytes."""


class ValidationEvent(_Event):
    """A measurement on the validation split."""

    event: Literal["validation"] = "validation"
    step: int
    loss: float


class EvaluationEvent(_Event):
    """One metric on the test split."""

    event: Literal["evaluation"] = "evaluation"
    model: Literal["baseline", "tuned"]
    metric: str
    value: float


class CheckpointEvent(_Event):
    """A rank has written its part of a checkpoint to local disk."""

    event: Literal["checkpoint"] = "checkpoint"
    step: int
    directory: str
    seconds: float
    provenance: dict[str, Any]
    keep_also: int | None
    """Step of the best checkpoint so far, which is kept whatever its age; None without early stopping."""


class ResultEvent(_Event):
    """The result of the stage, from rank 0."""

    event: Literal["result"] = "result"
    result: StageResult


class FailureEvent(_Event):
    """Why a rank ends early."""

    event: Literal["failure"] = "failure"
    reason: Reason
    message: str
    hung: bool = False
    """Whether the rank ended without waiting for the others."""


Event = Annotated[
    ProgressEvent | StepEvent | ValidationEvent | EvaluationEvent | CheckpointEvent | ResultEvent | FailureEvent,
    Field(discriminator="event"),
]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def read_event(line: bytes) -> Event:
    """The event in one line.

    Raises:
        pydantic.ValidationError: It is none.
    """
    return _EVENT.validate_json(line)
