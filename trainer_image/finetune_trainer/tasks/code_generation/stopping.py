"""Where an answer ends: the same rule for the baseline, the tuned model and the completions of the data."""

from __future__ import annotations

import codeop
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from finetune_api.tables.code import CodeLanguage
from finetune_trainer.tasks.code_generation.parsing import Parses, parser_of, parses_as_python
from finetune_trainer.tasks.code_generation.python_lines import block_end, empty_bodies, leaves_block_open

STOP_RULES = {
    True: "Where the prompt leaves an indented block open, the answer ends before the first statement at top level, "
    "unless it starts with one; otherwise it is the longest run of whole lines that parses, or all of it if none does.",
    False: "Where the prompt leaves a block open, the answer is the shortest run of whole lines that parses after the "
    "prompt; otherwise it is the longest one, or all of it if none does.",
}
"""By whether blocks are indented."""
FENCE_RULE = (
    " Of an answer with a Markdown fence, the content of the first fence counts; if it starts the program again, the "
    "block of the prompt gets an empty body."
)
NO_RULE = "The answer is what the model wrote, or the content of its first Markdown fence."

_FENCE = re.compile(r"^[ \t]*(```+)[^\n`]*(?:\n|\Z)", re.MULTILINE)
_THINKING = re.compile(r"\A\s*<think>.*?</think>\n*", re.DOTALL)
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_ONE_WORD = re.compile(r"\s*\w*\s*")
_LINE_ENDS = ("x", "x: pass")
"""What may complete a prompt that ends within a line."""
_MOST_CLOSED = 8
"""Blocks of a prompt that are closed to see whether it is the beginning of a program."""


class Stop(Protocol):
    """The rule for a language."""

    sentence: str
    """For people."""

    def answer(self, prompt: str, output: str) -> str:
        """The part of the output of a model for ``prompt`` that counts; white space is kept."""

    def program(self, prompt: str, answer: str) -> str:
        """The program of an answer: it follows its prompt, unless that is no code but a text."""

    def empty(self, prompt: str) -> str:
        """The program of an answer that does nothing."""


def stop_of(language: CodeLanguage) -> Stop:
    """The rule for ``language``."""
    if language is CodeLanguage.PYTHON:
        return PythonStop()
    parses = parser_of(language)
    return BracesStop(parses) if parses else FenceStop()


@dataclass(frozen=True)
class _Fenced:
    """An output with a Markdown fence."""

    before: str
    content: str

    def follows(self, context: str, run: str, parses: Parses) -> bool:
        """Whether the fence is a part of the output, and not of the program: of a docstring, or after the program.

        Args:
            context: The part of the prompt that belongs to the program.
            run: The longest run of the output that parses.
            parses: Whether a text is a program.
        """
        inside = len(run) > len(self.before) and parses(context + run)
        return not inside and bool(_ONE_WORD.fullmatch(self.before) or not parses(context + self.before))

    @classmethod
    def of(cls, output: str) -> _Fenced | None:
        """The first fence of ``output``; None if there is none."""
        opened = _FENCE.search(output)
        if opened is None:
            return None
        closed = re.compile(rf"^[ \t]*{opened[1]}[ \t\r]*$", re.MULTILINE).search(output, opened.end())
        return cls(output[: opened.start()], output[opened.end() : closed.start() if closed else len(output)])


class PythonStop:
    """Implements `Stop` for Python, whose blocks are indented."""

    sentence = STOP_RULES[True] + FENCE_RULE

    def answer(self, prompt: str, output: str) -> str:
        context, output = _context(prompt), _without_thinking(output)
        fenced = _Fenced.of(output)
        if not leaves_block_open(context):
            return _of_complete(context, output, fenced, parses_as_python)
        # A fence after the block is a statement at top level, which ends the block.
        if fenced and not self._in_block(context, fenced.before):
            output = fenced.content
        if self._in_block(context, output) or not output.strip():
            return output[: block_end(context + output, len(context)) - len(context)]
        return self._at_top_level(context, output)

    def program(self, prompt: str, answer: str) -> str:
        return _context(prompt) + answer

    def empty(self, prompt: str) -> str:
        context = _context(prompt)
        return context + _empty_body(context)

    def _in_block(self, context: str, output: str) -> bool:
        """Whether some of ``output`` belongs to the block that ``context`` leaves open."""
        end = block_end(context + output, len(context)) - len(context)
        return bool(output[:end].strip())

    def _at_top_level(self, context: str, output: str) -> str:
        """An output without a line of the block: the program goes on, or starts again."""
        body = _empty_body(context)
        run = longest_run(context + body, output, parses_as_python)
        return body + run if parses_as_python(context + body + run) else output


class BracesStop:
    """Implements `Stop` for languages whose blocks are in braces."""

    sentence = STOP_RULES[False] + FENCE_RULE

    def __init__(self, parses: Parses) -> None:
        self._parses = parses

    def answer(self, prompt: str, output: str) -> str:
        output = _without_thinking(output)
        fenced = _Fenced.of(output)
        if self._parses(prompt):
            return _of_complete(prompt, output, fenced, self._parses)
        outputs = [output, *((fenced.content,) if fenced else ())]
        for text in outputs:
            if (run := self._shortest_run(prompt, text)) is not None:
                return run
        closed = self._closed(prompt)
        if closed and not fenced and _indent(output) > _indent(prompt):
            return output  # It goes on with the block, and does not end it.
        context = "" if closed is None else prompt + closed
        run = longest_run(context, outputs[-1], self._parses)
        return run if closed is None or not self._parses(context + run) else closed + run

    def program(self, prompt: str, answer: str) -> str:
        # Where nothing parses after the prompt, it is a text or has an error.
        return answer if self._closed(prompt) is None and not self._parses(prompt + answer) else prompt + answer

    def empty(self, prompt: str) -> str:
        return prompt + (self._closed(prompt) or "")

    def _shortest_run(self, prompt: str, output: str) -> str | None:
        """The shortest run of whole lines that parses after ``prompt``; None if there is none."""
        return next((run for run in reversed(list(_runs(output))) if run.strip() and self._parses(prompt + run)), None)

    def _closed(self, prompt: str) -> str | None:
        """What closes the blocks that ``prompt`` leaves open; None if it is not the beginning of a program."""
        for closed in ("}" * count for count in range(_MOST_CLOSED)):
            if self._parses(prompt + closed):
                return closed and f"{closed}\n"
        return None


class FenceStop:
    """Implements `Stop` for languages without a parser."""

    sentence = NO_RULE

    def answer(self, prompt: str, output: str) -> str:
        output = _without_thinking(output)
        fenced = _Fenced.of(output)
        return fenced.content if fenced else output

    def program(self, prompt: str, answer: str) -> str:
        return prompt + answer

    def empty(self, prompt: str) -> str:
        return prompt


def is_fenced(output: str, answer: str) -> bool:
    """Whether ``answer`` is from a Markdown fence of ``output``."""
    return _FENCE.search(output) is not None and not output.startswith(answer)


def longest_run(context: str, output: str, parses: Parses) -> str:
    """The longest run of whole lines at the start of ``output`` that parses after ``context``; all if none does."""
    return next((run for run in _runs(output) if run.strip() and parses(context + run)), output)


def _indent(text: str) -> int:
    """The indentation of the first line that is not blank."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return len(first) - len(first.lstrip())


def _of_complete(context: str, output: str, fenced: _Fenced | None, parses: Parses) -> str:
    """The longest run of an output that begins at top level, or that of its fence if no program is before it."""
    run = longest_run(context, output, parses)
    return longest_run(context, fenced.content, parses) if fenced and fenced.follows(context, run, parses) else run


def _runs(output: str) -> Iterator[str]:
    """The runs of whole lines at the start of ``output``, the longest first; its end also ends a line."""
    lines = _LINE.findall(output)
    for count in range(len(lines), 0, -1):
        yield "".join(lines[:count])


def _context(prompt: str) -> str:
    """The part of a Python prompt that belongs to the program: all of it, or nothing if it is a text."""
    return prompt if is_python(prompt) else ""


@lru_cache(maxsize=1024)
def is_python(prompt: str) -> bool:
    """Whether ``prompt`` is a Python program or the beginning of one; a text in words is neither."""
    if any(parses_as_python(prompt + end) for end in (*empty_bodies(prompt), *_LINE_ENDS)):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return codeop.compile_command(prompt, symbol="exec") is None
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return False


def _empty_body(context: str) -> str:
    """What completes ``context`` without doing anything; empty if nothing does."""
    return next((body for body in empty_bodies(context) if parses_as_python(context + body)), "")


def _without_thinking(output: str) -> str:
    """``output`` without the thinking block with which reasoning models begin."""
    return _THINKING.sub("", output, count=1)
