"""Lets the preparation of a task run the programs of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_trainer.context import StageContext
from finetune_trainer.sandbox import open_sandbox
from finetune_trainer.tasks.base import Preparation, RunsPrograms


@contextmanager
def sandbox_for(preparation: Preparation, context: StageContext) -> Iterator[None]:
    """Let ``preparation`` run programs, if it does and the job allows it.

    Raises:
        StageFailure: BadConfiguration when this machine cannot isolate programs; Unavailable when the container that
            runs them does not answer.
    """
    if not isinstance(preparation, RunsPrograms) or not context.config.spec.evaluation.allow_code_execution:
        yield
        return
    programs = 0

    def report(ended: int) -> None:
        nonlocal programs
        programs += ended
        context.reporter.progress("running the tests of the rows", programs, unit="programs")

    with open_sandbox(context.config) as sandbox:
        preparation.run_with(sandbox, report)
        yield
