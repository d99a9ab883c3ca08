"""Distillation with mode Responses: the teacher answers the prompts of training and validation, which are then learned.

The rows are read, checked and divided into splits as without a teacher. Then the answers of train and validation are
replaced by those of the teacher, and these rows are tokenised. Test rows keep their references; the answers of the
teacher to their prompts are stored beside them, to measure it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from finetune_api import layout
from finetune_api.spec import Deduplication, DistillationMode, FineTuneJobSpec
from finetune_trainer.context import StageContext
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.prepare.asking import LEARNED, Asking
from finetune_trainer.prepare.dedupe import without
from finetune_trainer.prepare.kept import KeptRows
from finetune_trainer.prepare.problems import Tally
from finetune_trainer.prepare.read import DataSet, collect
from finetune_trainer.prepare.slices import SliceReader
from finetune_trainer.prepare.splits import TEST, Assignment, Selection
from finetune_trainer.prepared import ResponsesReport
from finetune_trainer.row_hashes import Hashes, hashes_of
from finetune_trainer.tasks.base import Preparation
from finetune_trainer.tasks.teachable import Teachable
from finetune_trainer.teaching.answering import OpenAnswering

log = logging.getLogger(__name__)


_MANY_SUSPECT = 0.05
_PLACES = 3


def learns_responses(spec: FineTuneJobSpec) -> bool:
    """Whether a teacher answers the prompts of the data."""
    return spec.distillation is not None and spec.distillation.mode is DistillationMode.RESPONSES


class Responses:
    """A context manager with the rows of a job before its teacher has answered them.

    Args:
        context: The context of the stage.
        preparation: That of the task, which is `Teachable`.
    """

    def __init__(self, context: StageContext, preparation: Preparation) -> None:
        distillation = context.config.spec.distillation
        assert distillation
        assert isinstance(preparation, Teachable)  # See TaskRow.not_distilled.
        self.teachable: Teachable = preparation
        self._preparation: Preparation = preparation
        self._context = context
        self._teacher = distillation.teacher
        self._most_failed = distillation.max_failed
        self._kept: dict[str, KeptRows] = {}

    def __enter__(self) -> Responses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for kept in self._kept.values():
            kept.close()

    def keep(self, name: str) -> KeptRows:
        """Where the valid rows of the data set ``name`` are kept."""
        self._kept[name] = KeptRows(self._context.workspace / f"{name}.rows")
        return self._kept[name]

    def count(self, assignment: Assignment) -> str:
        """What would be asked, as a clause."""
        counts = {split: len(one.rows) for split, one in assignment.splits.items()}
        if not self._context.config.dry_run:
            return f"the teacher has up to {sum(counts.values()):,} questions to answer"
        return (
            f"the teacher would be asked up to {sum(counts.values()):,} questions, {counts['train']:,} for training, "
            f"{counts['validation']:,} for validation, and {counts[TEST]:,} to measure it; a dry run asks none, and "
            "counts the tokens of the answers in the data"
        )

    def learn(
        self,
        sets: Mapping[str, DataSet],
        assignment: Assignment,
        output: Path,
        unknown_id: int | None,
        open_answering: OpenAnswering,
    ) -> Answered:
        """Ask the teacher, and tokenise its answers.

        Args:
            sets: The data sets as they were read.
            assignment: Their splits.
            output: Directory for the answers to the prompts of the test split.
            unknown_id: As in `read_data_set`.
            open_answering: Opens what answers.

        Raises:
            StageFailure: BadData when too many answers cannot be used; otherwise as `Answering.ask`.
        """
        config = self._context.config
        asking = Asking(
            self.teachable,
            self._most_failed,
            {name: len(one.rows) for name, one in assignment.splits.items()},
            config.job_layout.answers,
        )
        with ExitStack() as stack:
            store = stack.enter_context(AnswerStore(config.job_layout.answers))
            asking.answering = stack.enter_context(open_answering(store, self._report(asking)))
            found: dict[str, DataSet] = {}
            for split in LEARNED:
                selection = assignment.splits[split]
                uri = config.spec.dataset.train.uri if selection.origin == "train" else sets[split].tally.uri
                tally = Tally(uri, self._most_failed)
                asking.tallies[split] = tally
                found[split] = collect(
                    asking.answered(split, self._kept[selection.origin], selection.rows),
                    self._preparation,
                    tally,
                    self._context.workspace / f"{split}.answered",
                    unknown_id=unknown_id,
                    deduplicate=config.spec.dataset.cleaning.deduplicate is not Deduplication.NONE,
                    slices=SliceReader((), uri),
                )
                asking.check()
            asking.check_learned()
            test = assignment.splits[TEST]
            with (output / layout.TEACHER_ANSWERS).open("w", encoding="utf-8") as file:
                for place, outcome in asking.measured(self._kept[test.origin], test.rows):
                    file.write(json.dumps({"source": place.source, **outcome}, ensure_ascii=False) + "\n")
        return _divided(sets, assignment, found, asking.report(self._teacher), config.spec)

    def _report(self, asking: Asking) -> Callable[[int], None]:
        def report(done: int) -> None:
            total = sum(asking.counts.values())
            self._context.reporter.progress("asking the teacher", asking.done + done, total, unit="prompts")

        return report


@dataclass(frozen=True)
class Answered:
    """The data sets with the answers of the teacher, and their splits."""

    sets: dict[str, DataSet]
    assignment: Assignment
    report: ResponsesReport

    @property
    def learned(self) -> Hashes:
        """The hashes of the training rows with the answers of the teacher."""
        train = self.assignment.splits["train"]
        return hashes_of(self.sets[train.origin].keys, train.rows)

    @property
    def notes(self) -> list[str]:
        """What the user should know about the answers."""
        answers, notes = self.report.answers, []
        if answers.suspect:
            share = answers.suspect / answers.used
            what = "many answers" if share > _MANY_SUSPECT else "answers"
            found = [(f"{one.file}:{one.line}") for one in self.report.suspect[:_PLACES]]
            more = ", …" if answers.suspect > _PLACES else ""
            notes.append(
                f"{what} of the teacher read like a refusal, and are learned: {answers.suspect:,} of {answers.used:,} "
                f"({', '.join(found)}{more})"
            )
        if self.report.estimated:
            notes.append(
                f"the endpoint did not count the tokens of {self.report.estimated:,} answers; a quarter of their bytes "
                "counts instead"
            )
        return notes


def _divided(
    sets: Mapping[str, DataSet],
    assignment: Assignment,
    found: Mapping[str, DataSet],
    report: ResponsesReport,
    spec: FineTuneJobSpec,
) -> Answered:
    """The data sets of the splits, each of which has one of its own now.

    Args:
        sets: The data sets as they were read.
        assignment: Their splits.
        found: The data sets with the answers of the teacher, by split.
        report: The report about these.
        spec: The spec of the job.
    """
    deduplicate = spec.dataset.cleaning.deduplicate is not Deduplication.NONE
    test = assignment.splits[TEST]
    taken = [sets[test.origin].keys[row] for row in test.rows]
    splits, leaked = {}, assignment.leaked
    # Two prompts with different answers in the data may have the same answer of the teacher.
    for split in LEARNED:
        keys = found[split].keys
        rows = without(keys, taken) if deduplicate else list(range(len(keys)))
        leaked += len(keys) - len(rows)
        splits[split] = Selection(split, rows)
        taken += keys
    # What was counted when the rows were read is counted once.
    of_test = sets[test.origin]
    if test.origin != TEST:
        of_test = replace(of_test, tally=Tally(of_test.tally.uri, 1.0), duplicates=0, contradicting=0)
    read = {split: sets[split] for split in LEARNED if split in sets}
    learned = {
        split: replace(
            found[split],
            tally=read[split].tally if split in read else Tally(sets["train"].tally.uri, 1.0),
            duplicates=found[split].duplicates + (read[split].duplicates if split in read else 0),
            contradicting=read[split].contradicting if split in read else 0,
        )
        for split in LEARNED
    }
    splits_in_order = {split: splits.get(split, Selection(TEST, test.rows)) for split in assignment.splits}
    return Answered({**learned, TEST: of_test}, Assignment(splits_in_order, leaked, assignment.groups), report)
