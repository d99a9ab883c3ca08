"""Where the assistant speaks in a rendered conversation.

Templates that mark it with ``{% generation %}`` say so themselves. For all others it is found by rendering the
conversation up to each answer and looking at what the answer adds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]
"""Characters, from and up to."""

_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
_NO_END = "the model's chat template changes an answer, so it cannot be learned; give the model another chat template"


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and a span for each answer in it, in order."""

    text: str
    answers: list[Span]


class ChatRenderer:
    """Renders conversations with the tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from transformers.utils.chat_template_utils import render_jinja_template

        # The library declares that it returns a string; it returns the texts and their spans.
        self._render: Callable[..., tuple[list[str], list[list[Span]]]] = cast(Any, render_jinja_template)
        self._template = tokenizer.get_chat_template()
        self._special_tokens = tokenizer.special_tokens_map
        self._ends = tuple(sorted((str(token) for token in tokenizer.added_tokens_encoder), key=len, reverse=True))
        self.marked = bool(_GENERATION.search(self._template))

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The conversation with its answers, their end-of-turn tokens included.

        Raises:
            BadRow: The template refuses the conversation, or changes an answer.
        """
        text, spans = self._text(messages, generation_prompt=False)
        if not self.marked:
            spans = self._added(messages, text)
        answers = [(start, end) for start, end in spans if start < end]
        if not answers:
            raise BadRow("the model's chat template leaves every answer out; give the model another chat template")
        return Rendered(text, answers)

    def _added(self, messages: Sequence[Message], text: str) -> list[Span]:
        return [
            self._answer(messages, index, text)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]

    def _answer(self, messages: Sequence[Message], index: int, text: str) -> Span:
        """What the answer ``messages[index]`` adds to the text: after the generation prompt, up to the next message."""
        after = text if index == len(messages) - 1 else self._text(messages[: index + 1], generation_prompt=False)[0]
        start = self._start(messages[:index], text)
        if text.startswith(after):
            end = len(after)
        else:
            # Some templates write the newest answer in another way (with an empty thought, say) than earlier ones:
            # take the answer's own words, and what ends a turn from the newest.
            words = messages[index]["content"].strip()
            found, newest = text.find(words, start), after.rfind(words)
            ending = after[newest + len(words) :]
            end = found + len(words) + len(ending)
            if found < 0 or newest < 0 or text[found + len(words) : end] != ending:
                raise BadRow(_NO_END)
        return start, self._trimmed(text, start, end)

    def _start(self, before: Sequence[Message], text: str) -> int:
        """Where what follows the messages ``before`` begins, after as much of the generation prompt as ``text`` has.

        The prompt of a model that thinks first can end in an opened thought that a given answer does not have.
        """
        if not before:
            return 0
        prompt, _ = self._text(before, generation_prompt=True)
        if text.startswith(prompt):
            return len(prompt)
        said, _ = self._text(before, generation_prompt=False)
        if not text.startswith(said):
            raise BadRow(_NO_END)
        same = (ours == theirs for ours, theirs in zip(prompt, text, strict=False))
        return sum(1 for _ in takewhile(bool, same))

    def _trimmed(self, text: str, start: int, end: int) -> int:
        """Without the line break that follows an end-of-turn token: the model stops before it."""
        bare = text[start:end].rstrip()
        return start + len(bare) if bare.endswith(self._ends) else end

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
            raise BadRow(f"the model's chat template refuses the conversation ({reason}); correct it") from None
        return texts[0], spans[0] if self.marked else []
