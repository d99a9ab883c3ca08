"""Lets a teacher answer the prompts of rows, and counts the answers that cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import TeacherSpec
from finetune_api.stage import MOST_PROBLEMS, NOTE_LENGTH, TeacherAnswers
from finetune_trainer.endpoint.messages import NOT_ASKED, Answer, Outcome
from finetune_trainer.endpoint.usable import Verdict, verdict
from finetune_trainer.prepare.kept import KeptRows
from finetune_trainer.prepare.problems import REPORTED_ROWS, BadRow, Tally, listed_problems, percent, problem_lines
from finetune_trainer.prepare.read import Place
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepared import InvalidRow, ResponsesReport, SampleAnswer
from finetune_trainer.tasks.teachable import Teachable
from finetune_trainer.teaching.answering import Answering, Asked

log = logging.getLogger(__name__)

LEARNED = ("validation", "train")
"""The splits whose answers are replaced. What both have stays in validation."""
_AT_ONCE = 512
"""Rows that are asked for in one call."""
_SAMPLE = 5
_SHOWN = 300
"""Characters of a prompt or an answer of a sample."""


@dataclass
class Asking:
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
        for place, example, _, found, answer in self._asked(kept, rows, learned=False):
            cost = {"tokens": answer.completion_tokens, "seconds": answer.seconds} if answer else {}
            text, problem = found.text and found.written, found.problem
            try:
                if text:
                    self.teachable.with_answer(example, text)
            except BadRow as unusable:
                text, problem = None, str(unusable)
            yield place, {"answer": text, "problem": problem, **cost}

    def check(self) -> None:
        """Check that the share of answers that cannot be used is not too large, whatever else is answered.

        Raises:
            StageFailure: BadData when it is.
        """
        failed = self._failed
        if not self._too_many(failed):
            return
        raise self._unusable()

    def check_learned(self) -> None:
        """Check that training and validation have an answer to learn.

        Raises:
            StageFailure: BadData when one of them has none.
        """
        if any(tally.rows and tally.invalid == tally.rows for tally in self.tallies.values()):
            raise self._unusable()

    def _unusable(self) -> StageFailure:
        failed = self._failed
        total = sum(self.counts[split] for split in LEARNED)
        asked, problems = sum(tally.rows for tally in self.tallies.values()), listed_problems(self._learned_tallies())
        allowed, remedy = "", "correct the teacher or the prompts"
        if self._too_many(failed):
            allowed = f", more than {percent(self.most_failed)} of {total:,} prompts (distillation.maxFailed)"
            remedy += ", or raise distillation.maxFailed"
        return StageFailure(
            Reason.BAD_DATA,
            f"{failed:,} of {asked:,} answers of the teacher so far cannot be used{allowed}: {problems}; {remedy}; the "
            f"answers are stored and will be used again: to ask again, delete {self.stored}",
        )

    @property
    def _failed(self) -> int:
        """The prompts that are left out so far."""
        return sum(tally.invalid for tally in self.tallies.values())

    def _too_many(self, failed: int) -> bool:
        return failed > self.most_failed * sum(self.counts[split] for split in LEARNED)

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
                    for line in problem_lines(self._learned_tallies(), MOST_PROBLEMS - 1)
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
        return [row for tally in self._learned_tallies() for row in tally.reported][:REPORTED_ROWS]

    def _learned_tallies(self) -> list[Tally]:
        return [self.tallies[split] for split in reversed(LEARNED) if split in self.tallies]


def _batches(rows: Sequence[int]) -> Iterator[list[int]]:
    remaining = iter(rows)
    while some := list(islice(remaining, _AT_ONCE)):
        yield some


def _start(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
