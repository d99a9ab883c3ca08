"""Compares the best prompt of a search with the plain prompt, on the test split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_api.evaluation import BaselineKind
from finetune_api.events import AliveEvent
from finetune_api.failures import Reason, StageFailure
from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint.usable import CUT
from finetune_trainer.evaluate.answer_comparison import Answers, compared
from finetune_trainer.evaluate.answer_scoring import AnswerForm
from finetune_trainer.evaluate.baseline import ClassifierBaseline
from finetune_trainer.evaluate.classification import Classified
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter
from finetune_trainer.search.asked import Asked, Cost, Spent
from finetune_trainer.search.prompt import Prompt, Rows, read_prompt
from finetune_trainer.search.record import End, Record
from finetune_trainer.splits import open_split

if TYPE_CHECKING:
    import pyarrow as pa

    from finetune_trainer.search.form import PromptedForm


def compare(form: PromptedForm, inputs: EvaluationInputs) -> Comparison:
    """Ask the model about the test split once with each prompt, with the same settings of generation.

    Raises:
        StageFailure: BadData (a metric is not defined on the test split, or no answer to the best prompt can be used),
            Diverged, OutOfMemory.
    """
    table = open_split(inputs.prepared, SPLIT)
    plain, best = Prompt(form.plain_instruction(inputs.spec, inputs.data)), read_prompt(inputs.trained)
    record, answer_form = Record.read(inputs.trained), form.answer_form()

    def alive(_: int) -> None:
        inputs.reporter.send(AliveEvent())

    with form.asked(inputs, alive, Spent(record.requests, record.tokens)) as asked:
        both = _Both(plain, best, asked)
        found = _labels(inputs, table, both) if answer_form is None else _answers(inputs, table, answer_form, both)
    return _described(inputs.spec, found, record, both)


@dataclass(frozen=True)
class _Both:
    """The prompts that are compared, and the model that answers them."""

    plain: Prompt
    best: Prompt
    asked: Asked
    unusable: Counter[str] = field(default_factory=Counter)
    """Why answers could not be used so far: each reason with its number of answers."""

    def count(self, prompt: Prompt, cost: Cost, rows: int) -> None:
        """Count the answers to ``prompt`` that could not be used.

        Raises:
            StageFailure: BadData when ``prompt`` is the best one, and none of its answers can be used.
        """
        self.unusable.update(cost.unusable)
        if prompt == self.best and sum(cost.unusable.values()) == rows:
            raise StageFailure(
                Reason.BAD_DATA,
                f"None of the {rows:,} answers of the endpoint to the test rows with the best prompt can be used"
                f"{_mostly(cost.unusable, 'see what model.endpoint.model answers, or choose another one')}",
            )


def _labels(inputs: EvaluationInputs, table: pa.Table, both: _Both) -> Comparison:
    from finetune_trainer.tasks.text_classification.evaluation import compared_outputs

    labels = inputs.data.labels
    rows = Rows.of_table(table, inputs.spec.task.type.row.placeholders, labels)

    def output(prompt: Prompt, name: str) -> Classified:
        counter = ExampleCounter(inputs.reporter, f"ranking labels ({name})", len(rows))
        found, cost = both.asked.ranked(prompt, rows.inputs, labels, counter.add)
        both.count(prompt, cost, len(rows))
        return Classified.single_or_none(found)

    baseline = ClassifierBaseline(BaselineKind.PLAIN_PROMPT, output(both.plain, "plain prompt"), {})
    return compared_outputs(inputs, table, baseline, output(both.best, "best prompt"))


def _answers(inputs: EvaluationInputs, table: pa.Table, form: AnswerForm, both: _Both) -> Comparison:
    rows = Rows.of_table(table, inputs.spec.task.type.row.placeholders, ())
    scoring = form.scoring_for(inputs, table)
    none = np.zeros(len(rows))

    def answers(prompt: Prompt, name: str) -> Answers:
        counter = ExampleCounter(inputs.reporter, f"generating answers ({name})", len(rows))
        texts, cost = both.asked.answers(prompt, rows.inputs, counter.add)
        both.count(prompt, cost, len(rows))
        return Answers(none, none, [(scoring.read(index, text),) for index, text in enumerate(texts)])

    learned = np.ones(len(rows), np.int64)
    found = (answers(both.plain, "plain prompt"), answers(both.best, "best prompt"))
    comparison = compared(inputs, scoring, learned, found, BaselineKind.PLAIN_PROMPT)
    details = {**scoring.details, **form.details(inputs, comparison.predictions)}
    return replace(comparison, details=comparison.details | details)


def _described(spec: FineTuneJobSpec, found: Comparison, record: Record, both: _Both) -> Comparison:
    """``found`` with what evaluation.json and the report say about the search."""
    trial = record.best
    details: dict[str, Any] = {
        "plainPrompt": both.plain.instruction,
        "prompt": both.best.document(),
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
            "rowsLookedAt": record.looked_at,
            "proposed": record.proposed,
            "dropped": record.dropped,
        },
    }
    notes = []
    if record.end is End.BUDGET:
        notes.append(
            f"the token budget ended the search after {len(record.trials)} combinations, of which the best was measured"
        )
    settings = spec.method.settings
    wanted = (settings.propose or 0) if isinstance(settings, PromptSearchSpec) else 0
    if record.proposed < wanted:
        notes.append(
            f"only {record.proposed} of the {wanted} candidates of method.promptSearch.propose could be used; "
            f"{record.dropped} answers were empty, known or with other places"
        )
    if record.unusable:
        notes.append(
            f"while searching, {record.unusable.total():,} of {record.answers:,} answers of the endpoint could not be "
            f"used, and count as wrong{_mostly(record.unusable)}"
        )
    if both.unusable:
        notes.append(
            f"{both.unusable.total():,} of {2 * len(found.predictions):,} answers of the endpoint could not be used, "
            f"and count as wrong{_mostly(both.unusable)}"
        )
    return replace(found, details=found.details | details, notes=tuple(notes))


def _mostly(unusable: Mapping[str, int], remedy: str = "") -> str:
    """The most frequent reason of answers that cannot be used, and its remedy, as the end of a sentence.

    Args:
        unusable: Each reason with its number of answers.
        remedy: What helps against any reason but a limit of tokens that is too low.
    """
    reason, count = Counter(unusable).most_common(1)[0]
    remedy = "raise evaluation.generation.maxNewTokens" if reason in CUT else remedy
    which = "the reason" if len(unusable) == 1 else f"the most frequent reason ({count:,} times)"
    return f"; {which} is that {reason}{': ' if remedy else ''}{remedy}"


def _alone(record: Record) -> float | None:
    """The score of the best instruction without examples on the validation split; None if it was not measured."""
    best = record.best
    if best is not None and not best.shots:
        return best.value
    return record.alone.value if record.alone else None
