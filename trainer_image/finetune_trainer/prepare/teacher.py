"""What prepare checks of the teacher of a distillation."""

from __future__ import annotations

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec


def check_teacher(spec: FineTuneJobSpec) -> None:
    """Check that the job's model can learn from its teacher.

    Raises:
        StageFailure: BadConfiguration when it cannot.
    """
    if spec.distillation and not spec.distillation.teacher.endpoint:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"distillation with mode {spec.distillation.mode} does not work in this version: remove distillation",
        )
