"""Events that the worker processes of a stage send to their host process, as JSON Lines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from finetune_api.failures import Reason
from finetune_api.stage import StageResult


class _Event(BaseModel):
    # The gradient norm can be infinite: with FP16, until the loss scaler has found a scale.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class ProgressEvent(_Event):
    """The current activity of the stage: ``done`` of ``total`` units."""

    event: Literal["progress"] = "progress"
    activity: str
    done: int | None = None
    total: int | None = None
    unit: str = "steps"


class AliveEvent(_Event):
    """A rank makes progress that no other event reports, such as in the middle of a step."""

    event: Literal["alive"] = "alive"


class StepEvent(_Event):
    """One logged optimizer step."""

    event: Literal["step"] = "step"
    step: int
    total: int
    epoch: float
    loss: float
    cross_entropy: float | None = None
    """With a teacher, the two parts of the loss, before their weights."""
    divergence: float | None = None
    learning_rate: float
    gradient_norm: float | None
    tokens: int
    """Tokens in the steps since the last event, summed over all processes."""
    seconds: float
    """Mean duration of these steps, in seconds."""
    memory: int
    """Peak memory of rank 0, in bytes: GPU memory if it has a GPU, otherwise resident memory."""


class ValidationEvent(_Event):
    """The loss on the validation split, and the metrics of answers generated for some of its examples."""

    event: Literal["validation"] = "validation"
    step: int
    loss: float | None
    """None for a method without a loss."""
    metrics: dict[str, float] = {}


class EvaluationEvent(_Event):
    """One metric of one model on the test split."""

    event: Literal["evaluation"] = "evaluation"
    model: Literal["baseline", "tuned", "teacher"]
    metric: str
    value: float


class CheckpointEvent(_Event):
    """A rank has saved its part of a checkpoint to local disk."""

    event: Literal["checkpoint"] = "checkpoint"
    step: int
    directory: str
    seconds: float
    provenance: dict[str, Any]
    keep_also: int | None
    """Step of the best checkpoint so far, which is kept regardless of its age; None without early stopping."""


class ResultEvent(_Event):
    """The result of the stage, from rank 0."""

    event: Literal["result"] = "result"
    result: StageResult


class FailureEvent(_Event):
    """Why a rank exits before it has finished."""

    event: Literal["failure"] = "failure"
    reason: Reason
    message: str
    hung: bool = False
    """Whether the rank exited without waiting for the other ranks."""
    retry_after: float | None = None
    """As `finetune_api.failures.StageFailure`."""
    progressed: bool = False
    """Likewise."""


Event = Annotated[
    ProgressEvent
    | AliveEvent
    | StepEvent
    | ValidationEvent
    | EvaluationEvent
    | CheckpointEvent
    | ResultEvent
    | FailureEvent,
    Field(discriminator="event"),
]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def read_event(line: bytes) -> Event:
    """Parse one line.

    Raises:
        pydantic.ValidationError: The line is not an event.
    """
    return _EVENT.validate_json(line)
