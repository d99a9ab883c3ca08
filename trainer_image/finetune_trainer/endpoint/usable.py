"""Whether an answer of an endpoint can be used as text, and why not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune_trainer.endpoint.messages import Answer, Failed, Outcome

_WHOLE = (None, "stop", "eos", "eos_token", "end_turn", "stop_sequence")
"""Finish reasons of whole answers; None of servers that have none."""
_TOOLS = ("tool_calls", "function_call", "tool_use")
_THOUGHT = re.compile(r"\s*<(think|thinking|reasoning)>.*?</\1>", re.DOTALL)
_BLANK_LINES = re.compile(r"\A(?:[ \t\r]*\n)+")
_OPEN_THOUGHT = re.compile(r"\s*<(?:think|thinking|reasoning)>")

_CUT_ANSWER = "the answer is cut at the limit of tokens"
_CUT_REASONING = f"{_CUT_ANSWER}, and has only reasoning"
CUT = (_CUT_ANSWER, _CUT_REASONING)
"""The problems of answers that need a higher limit of tokens."""

# A whole answer that begins so and says little else. The same words later in an answer, or in quotes, are no refusal.
_APOLOGY = (
    r"(?:(?:i['’]m|i am|we['’]re|we are)\s+(?:very\s+|so\s+)?(?:sorry|afraid)|sorry|my apologies|i apologi[sz]e|"
    r"unfortunately)"
)
_SELF = r"(?:as\s+an?\s+(?:ai|artificial intelligence|language model|assistant)\b[^,.]*,?\s*)"
_CANNOT = (
    r"i\s*(?:can['’]?t|cannot|can\s+not|won['’]t|will\s+not|am\s+(?:not\s+able|unable)|['’]m\s+(?:not\s+able|unable))"
)
_VERBS = (
    r"(?:to\s+)?(?:help|assist|answer|comply|fulfil+|provide|do\s+that|do\s+this|generate|create|write|discuss|engage|"
    r"respond|complete|continue|support|process)"
)
_REFUSAL = re.compile(
    rf"(?:{_APOLOGY}[,.;:]?\s+(?:but\s+|that\s+)?)?(?:{_SELF})?{_CANNOT}\s+{_VERBS}\b"
    rf"|(?:{_APOLOGY}[,.;:]?\s+(?:but\s+)?)?{_SELF}.{{0,40}}?(?:can['’]?t|cannot|unable|not able|do not|don['’]t)\b",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST_REFUSAL = 400
"""Characters. A longer answer that begins like a refusal usually says more than that."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of an answer."""

    text: str | None
    """The answer without its reasoning; None if it cannot be used."""
    problem: str = ""
    """Why it cannot be used, as a clause."""
    written: str = ""
    """As `text`, with white space at both ends, which is content in code."""

    @property
    def suspect(self) -> bool:
        """Whether the answer is usable and reads like a refusal."""
        return self.text is not None and reads_like_refusal(self.text)


def verdict(outcome: Outcome) -> Verdict:
    """Whether ``outcome`` can be used as text.

    Only the answer is used: reasoning before it is removed, whether it is apart from the content or in ``<think>``.
    """
    if isinstance(outcome, Failed):
        return Verdict(None, outcome.problem)
    text = _without_thought(outcome.content or "")
    problem = _problem(outcome, text)
    return Verdict(None, problem) if problem else Verdict(text.strip(), written=text)


def _problem(answer: Answer, text: str) -> str:
    """Why ``answer``, whose content without reasoning is ``text``, cannot be used; empty if it can."""
    finish, blank, endless = answer.finish_reason, not text.strip(), _OPEN_THOUGHT.match(text) is not None
    only_reasoning = blank and bool(answer.reasoning or (answer.content or "").strip())
    problems = (
        (answer.refusal is not None, "the endpoint marks the answer as a refusal"),
        (finish == "content_filter", "the content filter of the endpoint has stopped the answer"),
        (answer.calls_tool or finish in _TOOLS, "the answer calls a tool"),
        (finish == "length" and (blank or endless), _CUT_REASONING),
        (finish == "length", _CUT_ANSWER),
        (finish not in _WHOLE, f"the answer ends with '{str(finish)[:40]}'"),
        (endless, "the reasoning in the answer does not end"),
        (only_reasoning, "the answer has only reasoning"),
        (blank, "the answer is empty"),
    )
    return next((problem for found, problem in problems if found), "")


def _without_thought(content: str) -> str:
    """``content`` behind the reasoning at its beginning. Some chat templates put the opening tag into the prompt."""
    if _THOUGHT.match(content):
        return _BLANK_LINES.sub("", _THOUGHT.sub("", content, count=1))
    before, end, rest = content.partition("</think>")
    return _BLANK_LINES.sub("", rest) if end and "<think>" not in before else content


def reads_like_refusal(text: str) -> bool:
    """Whether ``text`` as a whole says that it does not answer, in English.

    A phrase in the middle, in quotes, or at the beginning of a longer answer is no refusal.
    """
    return len(text) <= _LONGEST_REFUSAL and _REFUSAL.match(text.strip()) is not None
