"""Reads the rows of a job, divides them into splits, and lets its teacher answer, if it has one that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from finetune_api.failures import StageFailure
from finetune_api.spec import Deduplication
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.prepare.inputs import Inputs
from finetune_trainer.prepare.problems import Tally
from finetune_trainer.prepare.programs import sandbox_for
from finetune_trainer.prepare.read import DataSet, read_data_set
from finetune_trainer.prepare.responses import Responses, learns_responses
from finetune_trainer.prepare.slices import SliceReader
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.splits import TEST, Assignment, assign, check_sizes
from finetune_trainer.prepared import ResponsesReport
from finetune_trainer.row_hashes import Hashes, hashes_of
from finetune_trainer.tasks.base import Preparation
from finetune_trainer.teaching.answering import OpenAnswering


@dataclass(frozen=True)
class DividedRows:
    """The rows of a job, divided into splits."""

    sets: Mapping[str, DataSet]
    assignment: Assignment
    hashes: Mapping[str, Hashes]
    """Of each split. Training rows with the answers of a teacher have those of the data too."""
    notes: Sequence[str] = ()
    responses: ResponsesReport | None = None


def divided_rows(
    context: StageContext,
    inputs: Inputs,
    preparation: Preparation,
    unknown_id: int | None,
    output: Path,
    *,
    open_answering: OpenAnswering | None,
) -> DividedRows:
    """Read the data, divide it into splits, and let the teacher answer, if the job has one that does.

    Args:
        context: The context of the stage.
        inputs: The inputs of the job.
        preparation: That of the task.
        unknown_id: As in `read_data_set`.
        output: Directory of the prepared data.
        open_answering: Opens what answers for the teacher; None if nothing does in this stage.
    """
    dataset, more = inputs.data.dataset, inputs.data.more
    with ExitStack() as stack:
        learns = learns_responses(context.config.spec)
        responses = stack.enter_context(Responses(context, preparation)) if learns else None
        stack.enter_context(sandbox_for(preparation, context))
        sets = _read(context, inputs, preparation, unknown_id, responses)
        assignment = assign(
            {name: data.keys for name, data in sets.items()},
            dataset,
            context.config.spec.training.seed,
            sets["train"].groups,
        )
        check_sizes(assignment, dataset, more)
        hashes = {split: hashes_of(sets[one.origin].keys, one.rows) for split, one in assignment.splits.items()}
        if responses is None:
            return DividedRows(sets, assignment, hashes)
        if open_answering is None:
            return DividedRows(sets, assignment, hashes, [responses.count(assignment)])
        answered = responses.learn(sets, assignment, output, unknown_id, open_answering)
        check_sizes(answered.assignment, dataset, "correct the teacher or the prompts")
        hashes["train"] = np.concatenate([hashes["train"], answered.learned])
        return DividedRows(answered.sets, answered.assignment, hashes, answered.notes, answered.report)


def _read(
    context: StageContext,
    inputs: Inputs,
    preparation: Preparation,
    unknown_id: int | None,
    responses: Responses | None,
) -> dict[str, DataSet]:
    spec = context.config.spec
    sets = {}
    for name in inputs.data.files:
        uri = inputs.data.address(name)
        activity = f"reading the {name} data"
        context.reporter.progress(activity, 0, unit="examples")
        has_test_rows = name == (TEST if TEST in inputs.data.files else "train")
        slices = SliceReader(spec.evaluation.slices if has_test_rows else (), uri)
        slices.check_headers(inputs.data.files[name])
        # Rows that no test row comes from need no answer if a teacher answers them.
        schema_of = responses.teachable.open_schema if responses and not has_test_rows else preparation.row_schema
        try:
            sets[name] = read_data_set(
                inputs.data.files[name],
                schema_of(inputs.data.files[name]),
                preparation,
                Tally(uri, spec.dataset.cleaning.drop_invalid),
                context.workspace / f"{name}.spool",
                unknown_id=unknown_id,
                deduplicate=spec.dataset.cleaning.deduplicate is not Deduplication.NONE,
                slices=slices,
                on_rows=partial(_report_rows, context.reporter, activity),
                **({"on_valid": responses.keep(name).add} if responses else {}),
            )
        except StageFailure as failure:
            if responses and has_test_rows:
                raise _with_references(failure, responses, inputs.data.files[name]) from None
            raise
        preparation.end_data_set(uri)
    return sets


def _with_references(failure: StageFailure, responses: Responses, files: Sequence[DataFile]) -> StageFailure:
    """``failure``, and if answers are missing, that test rows need them."""
    try:
        answers = responses.teachable.open_schema(files).optional
    except StageFailure:
        return failure  # The prompts are missing too.
    if not any(f"column '{name}' is missing" in failure.message for name in answers):
        return failure
    return StageFailure(
        failure.reason,
        f"{failure.message}; a teacher answers the prompts of training and validation, but test rows need answers of "
        "their own: put such rows into another file, and set dataset.test.uri to it",
    )


def _report_rows(reporter: Reporter, activity: str, rows: int) -> None:
    reporter.progress(activity, rows, unit="examples")
