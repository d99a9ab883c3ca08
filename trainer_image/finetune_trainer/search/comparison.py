"""Compares the best prompt of a search with the plain prompt, on the test split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_api.evaluation import BaselineKind
from finetune_trainer.evaluate.answer_comparison import Answers, compared
from finetune_trainer.evaluate.answer_scoring import AnswerForm
from finetune_trainer.evaluate.baseline import ClassifierBaseline
from finetune_trainer.evaluate.classification import Classified
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter
from finetune_trainer.search.asked import Asked
from finetune_trainer.search.prompt import Prompt, Rows, read_prompt
from finetune_trainer.search.record import End, Record
from finetune_trainer.splits import open_split

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune_trainer.search.form import PromptedForm


def compare(form: PromptedForm, inputs: EvaluationInputs) -> Comparison:
    """Ask the model about the test split once with each prompt, with the same settings of generation.

    Raises:
        StageFailure: BadData (a metric is not defined on the test split), Diverged, OutOfMemory.
    """
    table = open_split(inputs.prepared, SPLIT)
    asked, answer_form = form.asked(inputs), form.answer_form()
    plain, best = Prompt(form.plain_instruction(inputs.spec, inputs.data)), read_prompt(inputs.trained)
    if answer_form is None:
        found = _labels(inputs, asked, table, plain, best)
    else:
        found = _answers(inputs, asked, table, answer_form, plain, best)
    record = Record.read(inputs.trained)
    return _described(found, record, plain, best)


def _labels(inputs: EvaluationInputs, asked: Asked, table: pa.Table, plain: Prompt, best: Prompt) -> Comparison:
    from finetune_trainer.tasks.text_classification.evaluation import compared_outputs

    labels = inputs.data.labels
    rows = Rows.of_table(table, inputs.spec.task.type.row.placeholders, labels)

    def output(prompt: Prompt, name: str) -> Classified:
        counter = ExampleCounter(inputs.reporter, f"ranking labels ({name})", len(rows))
        return Classified.single(asked.ranked(prompt, rows.inputs, labels, counter.add)[0])

    baseline = ClassifierBaseline(BaselineKind.PLAIN_PROMPT, output(plain, "plain prompt"), {})
    return compared_outputs(inputs, table, baseline, output(best, "best prompt"))


def _answers(
    inputs: EvaluationInputs, asked: Asked, table: pa.Table, form: AnswerForm, plain: Prompt, best: Prompt
) -> Comparison:
    rows = Rows.of_table(table, inputs.spec.task.type.row.placeholders, ())
    scoring = form.scoring(table, inputs.spec)
    none = np.zeros(len(rows))

    def answers(prompt: Prompt, name: str) -> Answers:
        counter = ExampleCounter(inputs.reporter, f"generating answers ({name})", len(rows))
        texts, _ = asked.answers(prompt, rows.inputs, counter.add)
        return Answers(none, none, [(scoring.read(index, text),) for index, text in enumerate(texts)])

    learned = np.ones(len(rows), np.int64)
    return compared(
        inputs,
        scoring,
        learned,
        answers(plain, "plain prompt"),
        answers(best, "best prompt"),
        BaselineKind.PLAIN_PROMPT,
    )


def _described(found: Comparison, record: Record, plain: Prompt, best: Prompt) -> Comparison:
    """``found`` with what evaluation.json and the report say about the search."""
    from dataclasses import replace

    trial = record.best
    details: dict[str, Any] = {
        "plainPrompt": plain.instruction,
        "prompt": best.document(),
        "search": {
            "metric": record.metric,
            "validationExamples": record.examples,
            "plain": record.plain.value if record.plain else None,
            "instructionAlone": _alone(record),
            "best": trial.value if trial else None,
            "combinations": len(record.trials),
            "distinct": record.distinct,
            "tokens": record.tokens,
            "nearRows": record.near,
            "proposed": record.proposed,
        },
    }
    notes = []
    if record.end is End.BUDGET:
        notes.append(
            f"the token budget ended the search after {len(record.trials)} combinations, of which the best was measured"
        )
    return replace(found, details=found.details | details, notes=tuple(notes))


def _alone(record: Record) -> float | None:
    """The score of the best instruction without examples on the validation split; None if it was not measured."""
    best = record.best
    if best is not None and not best.shots:
        return best.value
    return record.alone.value if record.alone else None
