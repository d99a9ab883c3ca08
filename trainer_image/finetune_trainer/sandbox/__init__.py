"""Runs programs that a model has written, with their tests, so that they can harm nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_api.stage import StageConfig
    from finetune_trainer.sandbox.programs import Sandbox


def open_sandbox(config: StageConfig) -> Sandbox:
    """The sandbox of a stage; enter it to start it.

    Raises:
        StageFailure: BadConfiguration when this stage must not run programs.
    """
    # The process of a program imports this package, and has the standard library only.
    from finetune_api.failures import Reason, StageFailure
    from finetune_trainer.sandbox.client import RemoteSandbox
    from finetune_trainer.sandbox.local import LocalSandbox

    if config.code_execution is None or not config.spec.evaluation.allow_code_execution:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"stage {config.stage} must not run generated programs: set evaluation.allowCodeExecution",
        )
    return RemoteSandbox(config.code_execution.socket) if config.code_execution.socket else LocalSandbox()
