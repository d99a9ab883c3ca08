"""Find the answers of the assistant in a rendered conversation.

Some chat templates mark answers with ``{% generation %}``. For all others, the conversation is rendered up to each
answer, and the answer is the text that it adds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.instruction_tuning.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]
"""Start (inclusive) and end (exclusive) in characters."""

_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
_CHANGED_ANSWER = "the model's chat template changes an answer, so it cannot be trained on; use another chat template"


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the span of each answer, in order."""

    text: str
    answers: list[Span]


class ChatRenderer:
    """Renders conversations with the tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from transformers.utils.chat_template_utils import render_jinja_template

        # Annotated in transformers as returning a string; it returns the texts and the spans of their answers.
        self._render: Callable[..., tuple[list[str], list[list[Span]]]] = cast(Any, render_jinja_template)
        self._template = tokenizer.get_chat_template()
        self._special_tokens = tokenizer.special_tokens_map
        self._end_tokens = tuple(
            sorted((str(token) for token in tokenizer.added_tokens_encoder), key=len, reverse=True)
        )
        self.marked = bool(_GENERATION.search(self._template))

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Render a conversation; the spans of the answers include their end-of-turn tokens.

        Raises:
            BadRow: The template rejects the conversation, omits all answers or changes one.
        """
        text, spans = self._text(messages, generation_prompt=False)
        if not self.marked:
            spans = self._added(messages, text)
        answers = [(start, end) for start, end in spans if start < end]
        if not answers:
            raise BadRow("the model's chat template omits every answer; use another chat template")
        return Rendered(text, answers)

    def _added(self, messages: Sequence[Message], text: str) -> list[Span]:
        return [
            self._answer(messages, index, text)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]

    def _answer(self, messages: Sequence[Message], index: int, text: str) -> Span:
        """The span of the answer ``messages[index]``: from the end of the generation prompt to the next message."""
        until_answer = (
            text if index == len(messages) - 1 else self._text(messages[: index + 1], generation_prompt=False)[0]
        )
        start = self._start(messages[:index], text)
        if text.startswith(until_answer):
            end = len(until_answer)
        else:
            # Some templates render the last answer differently from earlier ones, such as with an empty thinking block.
            # Then search for the content of the answer, followed by the end of turn of the last answer.
            content = messages[index]["content"].strip()
            found, last = text.find(content, start), until_answer.rfind(content)
            ending = until_answer[last + len(content) :]
            end = found + len(content) + len(ending)
            if found < 0 or last < 0 or text[found + len(content) : end] != ending:
                raise BadRow(_CHANGED_ANSWER)
        return start, self._trimmed(text, start, end)

    def _start(self, before: Sequence[Message], text: str) -> int:
        """Start of the message after ``before``: the end of the longest prefix of the generation prompt in ``text``.

        The generation prompt of a reasoning model can end with the start of a thinking block that the answer lacks.
        """
        if not before:
            return 0
        prompt, _ = self._text(before, generation_prompt=True)
        if text.startswith(prompt):
            return len(prompt)
        history, _ = self._text(before, generation_prompt=False)
        if not text.startswith(history):
            raise BadRow(_CHANGED_ANSWER)
        equal = (expected == actual for expected, actual in zip(prompt, text, strict=False))
        return sum(1 for _ in takewhile(bool, equal))

    def _trimmed(self, text: str, start: int, end: int) -> int:
        """Exclude white space after an end-of-turn token, because generation stops at the token."""
        answer = text[start:end].rstrip()
        return start + len(answer) if answer.endswith(self._end_tokens) else end

    def _text(self, messages: Sequence[Message], *, generation_prompt: bool) -> tuple[str, list[Span]]:
        import jinja2

        try:
            texts, spans = self._render(
                [list(messages)],
                chat_template=self._template,
                return_assistant_tokens_mask=self.marked,
                add_generation_prompt=generation_prompt,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")[:200]
            raise BadRow(f"the model's chat template rejects the conversation ({reason}); correct the row") from None
        return texts[0], spans[0] if self.marked else []
