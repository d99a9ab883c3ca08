"""CodeGeneration: compares the tuned model with the base model, and runs what they have written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from finetune_trainer.evaluate import answer_comparison
from finetune_trainer.evaluate.answer_scoring import AnswerForm
from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs, ExampleCounter
from finetune_trainer.sandbox.programs import Outcome, Program
from finetune_trainer.tasks.code_generation.scoring import CodeScoring, endings


def compare(inputs: EvaluationInputs, form: AnswerForm) -> Comparison:
    """See `finetune_trainer.evaluate.answer_comparison.compare`.

    Raises:
        StageFailure: As that; also as `finetune_trainer.sandbox.programs.Sandbox.run`.
    """
    if inputs.sandbox is None:
        return answer_comparison.compare(inputs, form)
    sandbox = inputs.sandbox

    def run(programs: Sequence[Program]) -> list[Outcome]:
        counter = ExampleCounter(inputs.reporter, "running the tests", len(programs), unit="programs")
        return sandbox.run(programs, counter.add)

    found = answer_comparison.compare(inputs, replace(form, scoring=partial(CodeScoring, run=run)))
    counted = endings(found.predictions)
    ran = {"sandbox": dict(sandbox.details), "endings": counted} if any(counted.values()) else {}
    return replace(found, details=found.details | ran)
