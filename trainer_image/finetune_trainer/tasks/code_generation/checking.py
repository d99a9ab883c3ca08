"""Runs the tests of rows, to see whether they tell a right program from none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.sandbox.programs import OnPrograms, Outcome, Program, Sandbox
from finetune_trainer.tasks.code_generation.rows import Code
from finetune_trainer.tasks.code_generation.stopping import Stop, is_fenced


@dataclass(frozen=True)
class _Programs:
    """The programs of a row with tests."""

    whole: Program
    """With its completion, or the content of its Markdown fence."""
    cut: Program
    """With the part of the completion that counts in an answer."""
    empty: Program
    """With an answer that does nothing."""

    @classmethod
    def of(cls, row: Code, stop: Stop) -> _Programs:
        cut = stop.answer(row.prompt, row.completion)
        # What is around a fence was never meant as a part of the program.
        completion = cut if is_fenced(row.completion, cut) else row.completion
        codes = (stop.program(row.prompt, completion), stop.program(row.prompt, cut), stop.empty(row.prompt))
        whole, counted, empty = (Program(code, row.tests) for code in codes)
        return cls(whole, counted, empty)

    @property
    def all(self) -> tuple[Program, ...]:
        return (self.whole, self.cut, self.empty)


def run_tests(
    rows: Sequence[Code], stop: Stop, sandbox: Sandbox, on_programs: OnPrograms = lambda _: None
) -> dict[int, BadRow]:
    """Run the tests of rows with their completions and without; the problems by the index of the row.

    Raises:
        StageFailure: As `finetune_trainer.sandbox.programs.Sandbox.run`.
    """
    programs = {index: _Programs.of(row, stop) for index, row in enumerate(rows) if row.tests}
    # Most completions are what counts of them, and rows may be the same.
    distinct = list(dict.fromkeys(program for row in programs.values() for program in row.all))
    outcomes = dict(zip(distinct, sandbox.run(distinct, on_programs), strict=True))
    found = ((index, _problem(row, outcomes, taught=rows[index].taught)) for index, row in programs.items())
    return {index: problem for index, problem in found if problem}


def _problem(row: _Programs, outcomes: Mapping[Program, Outcome], *, taught: bool) -> BadRow | None:
    if outcomes[row.empty].passed:
        return BadRow(
            "the tests pass without the completion, so they measure nothing; make them fail for a wrong program"
        )
    if taught and not outcomes[row.cut].passed:
        return BadRow(f"the answer fails the tests of its row ({outcomes[row.cut].detail})")
    if not taught and not outcomes[row.whole].passed:
        return BadRow(
            f"the completion fails its tests ({outcomes[row.whole].detail}); correct the completion or the tests"
        )
    if not outcomes[row.cut].passed:
        return BadRow(
            "the completion passes its tests, but what counts of it as an answer does not "
            f"({outcomes[row.cut].detail}): an answer ends with the block that the prompt leaves open; move what "
            "follows into the prompt or the tests"
        )
    return None
