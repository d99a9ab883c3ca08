"""What the operator's administrator does not allow jobs to do."""

from __future__ import annotations

from finetune_api.failures import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_core.runs import Refusal
from finetune_operator.settings import TrainerSettings


def refusal(spec: FineTuneJobSpec, settings: TrainerSettings) -> Refusal | None:
    """Why a job must not run; None if it may."""
    if spec.evaluation.allow_code_execution and not settings.code_execution.allowed:
        return Refusal(
            Reason.CODE_EXECUTION_FORBIDDEN,
            "spec.evaluation.allowCodeExecution: this operator does not allow jobs to run generated programs. Ask its "
            "administrator to set trainer.codeExecution.allowed in the values of the chart, and the job goes on by "
            "itself; or set allowCodeExecution to false, and name metrics that run no programs.",
        )
    return None
