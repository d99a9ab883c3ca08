"""Distillation with mode Responses: the teacher answers the prompts of training and validation, which are then learned.

The rows are read, checked and divided into splits as without a teacher. Then the answers of train and validation are
replaced by those of the teacher, and these rows are tokenised. Test rows keep their references; the answers of the
teacher to their prompts are stored beside them, to measure it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Deduplication, DistillationMode, FineTuneJobSpec, TeacherSpec
from finetune_api.stage import MOST_PROBLEMS, NOTE_LENGTH, TeacherAnswers
from finetune_trainer.context import StageContext
from finetune_trainer.endpoint.messages import NOT_ASKED, Answer, Outcome
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usable import Verdict, verdict
from finetune_trainer.prepare.dedupe import without
from finetune_trainer.prepare.kept import KeptRows
from finetune_trainer.prepare.problems import REPORTED_ROWS, BadRow, Tally, listed_problems, percent, problem_lines
from finetune_trainer.prepare.read import DataSet, Place, collect
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepare.slices import SliceReader
from finetune_trainer.prepare.splits import TEST, Assignment, Selection
from finetune_trainer.prepared import InvalidRow, ResponsesReport, SampleAnswer
from finetune_trainer.row_hashes import Hashes, hashes_of
from finetune_trainer.tasks.base import Preparation
from finetune_trainer.tasks.teachable import Teachable
from finetune_trainer.teaching.answering import Answering, Asked, OpenAnswering

log = logging.getLogger(__name__)

_LEARNED = ("validation", "train")
"""The splits whose answers are replaced. What both have stays in validation."""
_AT_ONCE = 512
"""Rows that are asked for in one call."""
_SAMPLE = 5
_MANY_SUSPECT = 0.05
_PLACES = 3
_SHOWN = 300
"""Characters of a prompt or an answer of a sample."""


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
        asking = _Asking(
            self.teachable,
            self._most_failed,
            {name: len(one.rows) for name, one in assignment.splits.items()},
            config.job_layout.answers,
        )
        with ExitStack() as stack:
            store = stack.enter_context(AnswerStore(config.job_layout.answers))
            asking.answering = stack.enter_context(open_answering(store, self._report(asking)))
            found: dict[str, DataSet] = {}
            for split in _LEARNED:
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
            test = assignment.splits[TEST]
            with (output / layout.TEACHER_ANSWERS).open("w", encoding="utf-8") as file:
                for place, outcome in asking.measured(self._kept[test.origin], test.rows):
                    file.write(json.dumps({"source": place.source, **outcome}, ensure_ascii=False) + "\n")
        return _divided(sets, assignment, found, asking.report(self._teacher), config.spec)

    def _report(self, asking: _Asking) -> Callable[[int], None]:
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


@dataclass
class _Asking:
    """Asks for the rows of one split after the other."""

    teachable: Teachable
    most_failed: float
    counts: Mapping[str, int]
    """Prompts of each split."""
    stored: str
    """Directory of the stored answers."""
    answering: Answering = field(init=False)
    tallies: dict[str, Tally] = field(default_factory=dict)
    done: int = 0
    """Prompts in earlier calls."""
    suspects: int = 0
    suspect: list[SampleAnswer] = field(default_factory=list)
    sample: list[SampleAnswer] = field(default_factory=list)

    def answered(self, split: str, kept: KeptRows, rows: Sequence[int]) -> Iterator[tuple[Place, Example, str]]:
        """The rows with a usable answer, which replaces their own.

        Raises:
            StageFailure: BadData as soon as too many answers cannot be used; otherwise as `Answering.ask`.
        """
        for place, example, prompt, found, _ in self._asked(kept, rows, learned=True):
            self.tallies[split].rows += 1
            try:
                if found.text is None:
                    raise BadRow(found.problem)
                answered = self.teachable.with_answer(example, found.written)
            except BadRow as problem:
                log.warning("%s: left out: %s", place.source, problem)
                place.reject(self.tallies[split], problem)
                self.check()
                continue
            self._look(place, prompt, found)
            yield place, answered, ""

    def measured(self, kept: KeptRows, rows: Sequence[int]) -> Iterator[tuple[Place, dict[str, object]]]:
        """The answer to each prompt of the test split, with its number of tokens and its seconds."""
        for place, _, _, found, answer in self._asked(kept, rows, learned=False):
            cost = {"tokens": answer.completion_tokens, "seconds": answer.seconds} if answer else {}
            yield place, {"answer": found.text and found.written, "problem": found.problem, **cost}

    def check(self) -> None:
        """Check that the share of answers that cannot be used is not too large, whatever else is answered.

        Raises:
            StageFailure: BadData when it is.
        """
        failed = self._failed
        if not self._too_many(failed):
            return
        total = sum(self.counts[split] for split in _LEARNED)
        asked, problems = sum(tally.rows for tally in self.tallies.values()), listed_problems(self._left_out())
        raise StageFailure(
            Reason.BAD_DATA,
            f"{failed:,} of {asked:,} answers of the teacher so far cannot be used, more than "
            f"{percent(self.most_failed)} of {total:,} prompts (distillation.maxFailed): {problems}; correct the "
            "teacher or the prompts, or raise distillation.maxFailed; the answers are stored and will be used again: "
            f"to ask again, delete {self.stored}",
        )

    @property
    def _failed(self) -> int:
        """The prompts that are left out so far."""
        return sum(tally.invalid for tally in self.tallies.values())

    def _too_many(self, failed: int) -> bool:
        return failed > self.most_failed * sum(self.counts[split] for split in _LEARNED)

    def _watch(self) -> Callable[[Outcome, int], bool]:
        """Whether too many answers cannot be used, counted as they arrive in one call of `Answering.ask`."""
        unusable = 0

        def watch(outcome: Outcome, times: int) -> bool:
            nonlocal unusable
            unusable += times * (verdict(outcome).text is None)
            return self._too_many(self._failed + unusable)  # The tallies have the answers of earlier calls.

        return watch

    def report(self, teacher: TeacherSpec) -> ResponsesReport:
        """What was answered by ``teacher``."""
        endpoint, prices = teacher.endpoint, teacher.prices
        usage, left_out = self.answering.usage, self._failed
        return ResponsesReport(
            model=endpoint.model if endpoint else None,
            url=endpoint.url if endpoint else None,
            answers=TeacherAnswers(
                used=sum(tally.rows for tally in self.tallies.values()) - left_out,
                left_out=left_out,
                suspect=self.suspects,
                requests=usage.requests if endpoint else None,
                retries=usage.retries,
                kept=usage.kept,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cost=usage.cost(prices) if prices else None,
                currency=prices.currency if prices else None,
                problems=tuple(
                    line if len(line) <= NOTE_LENGTH else f"{line[: NOTE_LENGTH - 1]}…"
                    for line in problem_lines(self._left_out())[:MOST_PROBLEMS]
                ),
            ),
            estimated=usage.estimated,
            seconds=round(usage.answer_seconds, 3),
            left_out=tuple(self._left_out()),
            suspect=tuple(self.suspect),
            sample=tuple(self.sample),
        )

    def _asked(
        self, kept: KeptRows, rows: Sequence[int], *, learned: bool
    ) -> Iterator[tuple[Place, Example, Asked, Verdict, Answer | None]]:
        for some in _batches(rows):
            found = list(kept.read(some))
            examples = [example for _, example in found]
            asked = self.teachable.asked(examples), self.teachable.questions(examples)
            prompts = [Asked(*one) for one in zip(*asked, strict=True)]
            later = sum(self.counts.values()) - self.done - len(some)
            outcomes = self.answering.ask(prompts, later, self._watch() if learned else lambda *_: False)
            self.done += len(some)
            for (place, example), prompt, outcome in zip(found, prompts, outcomes, strict=True):
                if outcome is NOT_ASKED:
                    continue
                answer = outcome if isinstance(outcome, Answer) else None
                yield place, example, prompt, verdict(outcome), answer

    def _look(self, place: Place, prompt: Asked, found: Verdict) -> None:
        """Keep what a user looks at: the first answers, and those that read like a refusal."""
        shown = SampleAnswer(
            file=place.file.name,
            line=place.line,
            prompt=_start(str(prompt.question.messages[-1].get("content") or "")),
            answer=_start(found.text or ""),
        )
        if len(self.sample) < _SAMPLE:
            self.sample.append(shown)
            log.info("%s: the teacher answers %r to %r", place.source, shown.answer, shown.prompt)
        if found.suspect:
            self.suspects += 1
            if len(self.suspect) < REPORTED_ROWS:
                self.suspect.append(shown)

    def _left_out(self) -> list[InvalidRow]:
        return [row for split in reversed(_LEARNED) if split in self.tallies for row in self.tallies[split].reported][
            :REPORTED_ROWS
        ]


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
    for split in _LEARNED:
        keys = found[split].keys
        rows = without(keys, taken) if deduplicate else list(range(len(keys)))
        leaked += len(keys) - len(rows)
        splits[split] = Selection(split, rows)
        taken += keys
    # What was counted when the rows were read is counted once.
    of_test = sets[test.origin]
    if test.origin != TEST:
        of_test = replace(of_test, tally=Tally(of_test.tally.uri, 1.0), duplicates=0, contradicting=0)
    read = {split: sets[split] for split in _LEARNED if split in sets}
    learned = {
        split: replace(
            found[split],
            tally=read[split].tally if split in read else Tally(sets["train"].tally.uri, 1.0),
            duplicates=found[split].duplicates + (read[split].duplicates if split in read else 0),
            contradicting=read[split].contradicting if split in read else 0,
        )
        for split in _LEARNED
    }
    splits_in_order = {split: splits.get(split, Selection(TEST, test.rows)) for split in assignment.splits}
    return Answered({**learned, TEST: of_test}, Assignment(splits_in_order, leaked, assignment.groups), report)


def _batches(rows: Sequence[int]) -> Iterator[list[int]]:
    remaining = iter(rows)
    while some := list(islice(remaining, _AT_ONCE)):
        yield some


def _start(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
