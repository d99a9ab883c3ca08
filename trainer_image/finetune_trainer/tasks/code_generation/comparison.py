"""CodeGeneration: compares the tuned model with the base model, and runs what they have written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from finetune_trainer.evaluate import answer_comparison
from finetune_trainer.evaluate.answer_scoring import AnswerForm
from finetune_trainer.evaluate.comparison import Comparison, EvaluationInputs, ExampleCounter
from finetune_trainer.evaluate.teacher_answers import generated_scores
from finetune_trainer.sandbox.programs import Outcome, Program
from finetune_trainer.tasks.code_generation.scoring import CodeScoring, endings


def compare(inputs: EvaluationInputs, form: AnswerForm) -> Comparison:
    """See `finetune_trainer.evaluate.answer_comparison.compare`.

    Raises:
        StageFailure: As that; also as `finetune_trainer.sandbox.programs.Sandbox.run`.
    """
    found = answer_comparison.compare(inputs, _running(inputs, form))
    counted = endings(found.predictions)
    if inputs.sandbox is None or not any(counted.values()):
        return found
    return replace(found, details=found.details | {"sandbox": dict(inputs.sandbox.details), "endings": counted})


def answer_scores(inputs: EvaluationInputs, form: AnswerForm, answers: Sequence[str]) -> dict[str, float]:
    """See `finetune_trainer.tasks.teachable.ScoresAnswers`; white space is content.

    Raises:
        StageFailure: As `finetune_trainer.sandbox.programs.Sandbox.run`.
    """
    return generated_scores(inputs, _running(inputs, form).scoring, answers)


def _running(inputs: EvaluationInputs, form: AnswerForm) -> AnswerForm:
    """``form`` that runs programs, if the job runs any."""
    sandbox = inputs.sandbox
    if sandbox is None:
        return form

    def run(programs: Sequence[Program]) -> list[Outcome]:
        counter = ExampleCounter(inputs.reporter, "running the tests", len(programs), unit="programs")
        return sandbox.run(programs, counter.add)

    return replace(form, scoring=partial(CodeScoring, run=run))
