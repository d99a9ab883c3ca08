"""The teacher of a distillation as a model on local disk."""

from __future__ import annotations

from pathlib import Path

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DistillationMode, FineTuneJobSpec, ModelSpec
from finetune_trainer.model_failures import AdapterGiven
from finetune_trainer.models import LocalModel, fetch_model
from finetune_trainer.prepared import DataReport

FIELD = "distillation.teacher"


def loaded_teacher(spec: FineTuneJobSpec) -> ModelSpec | None:
    """The teacher whose logits the job compares; None if it has no such teacher."""
    distillation = spec.distillation
    return distillation.teacher.model if distillation and distillation.mode is DistillationMode.LOGITS else None


def generating_teacher(spec: FineTuneJobSpec) -> ModelSpec | None:
    """The teacher that answers in the stage respond; None if the job has no such teacher."""
    return spec.distillation.generating_teacher if spec.distillation else None


def teaches(spec: FineTuneJobSpec) -> bool:
    """Whether training needs the logits of a teacher: with weight 0, it is that without one."""
    return loaded_teacher(spec) is not None and spec.distillation is not None and spec.distillation.weight > 0


def fetch_teacher(teacher: ModelSpec, scratch: Path, *, weights: bool, revision: str | None = None) -> LocalModel:
    """Make a teacher available locally; see `finetune_trainer.models.fetch_model`.

    Raises:
        StageFailure: BadConfiguration when it is an adapter; otherwise as `fetch_model`.
    """
    try:
        return fetch_model(teacher, scratch, weights=weights, revision=revision)
    except AdapterGiven:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{FIELD}.uri: {teacher.uri} is an adapter, and a teacher is a whole model: merge the adapter into its "
            "base model with the four lines in docs/distillation.md (An adapter as the teacher), and name the "
            "directory that they write; or train the teacher with method Full",
        ) from None
    except StageFailure as failure:
        raise StageFailure(failure.reason, failure.message.replace("spec.model.", f"spec.{FIELD}.")) from None


def fetch_pinned(spec: FineTuneJobSpec, report: DataReport, scratch: Path) -> LocalModel | None:
    """The teacher that prepare has found, with its weights; None if the job loads none.

    Raises:
        StageFailure: As `fetch_teacher`.
    """
    teacher = loaded_teacher(spec)
    if teacher is None or report.teacher is None:
        return None
    return fetch_teacher(teacher, scratch, weights=True, revision=report.teacher.model.revision)
