"""Renders conversations with the chat template, and finds the learned answers in the text.

Some chat templates mark answers with ``{% generation %}``. For all others, the conversation is rendered up to each
answer, and the answer is the text that it adds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateSyntaxError

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.exceptions import first_line
from finetune_trainer.modelling.tokenizer import chat_templates
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.time_limit import time_limit
from finetune_trainer.tasks.instruction_tuning.coverage import Span, check_messages, check_tools
from finetune_trainer.tasks.instruction_tuning.forms import Form, in_form
from finetune_trainer.tasks.instruction_tuning.messages import ASSISTANT, Conversation, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SECONDS_A_RENDERING = 30

_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
_CHANGED_ANSWER = "the model's chat template changes an answer, so it cannot be trained on; use another chat template"


@dataclass(frozen=True)
class Answer:
    """A learned answer in the rendered text."""

    span: Span
    """With the end-of-turn token, if the chat template writes one."""
    lacks_end: bool
    """Whether the chat template writes no end-of-turn token after the answer."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and its learned answers, in order."""

    text: str
    answers: list[Answer]


@dataclass(frozen=True)
class _Template:
    text: str
    marks_answers: bool


class ChatRenderer:
    """Renders conversations with the tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from transformers.utils.chat_template_utils import render_jinja_template

        # Annotated in transformers as returning a string; it returns the texts and the spans of their answers.
        self._render: Callable[..., tuple[list[str], list[list[Span]]]] = cast(Any, render_jinja_template)
        self._templates = [_Template(text, bool(_GENERATION.search(text))) for text in chat_templates(tokenizer)]
        self._special_tokens = tokenizer.special_tokens_map
        tokens = sorted((str(token) for token in tokenizer.added_tokens_encoder if str(token)), key=len, reverse=True)
        self._end_token = re.compile(rf"\s*(?:{'|'.join(map(re.escape, tokens)) or '(?!)'})")
        self._tokens = tuple(tokens)
        self._forms = list(Form)

    def render(self, chat: Conversation) -> Rendered:
        """Render a conversation.

        Templates differ in the form in which they accept tool calls and content. The first form is used in which the
        text contains all parts of the conversation.

        Raises:
            BadRow: The template rejects the conversation, leaves out a part or changes an answer.
        """
        problems: list[BadRow] = []
        for form in tuple(self._forms):
            try:
                rendered = self._checked(in_form(chat, form))
            except BadRow as problem:
                problems.append(problem)
            else:
                # Usually all rows need the same form.
                self._forms.remove(form)
                self._forms.insert(0, form)
                return rendered
        raise problems[0]

    def _checked(self, chat: Conversation) -> Rendered:
        text, marks = self._text(chat, chat.messages, generation_prompt=False)
        check_tools(chat, text)
        marked = self._template(chat).marks_answers
        spans = self._marked_spans(chat, text, marks) if marked else self._added_spans(chat, text)
        check_messages(chat, text, {index: found for index, found in spans.items() if chat.learned[index]})
        answers = []
        for index, found in sorted(spans.items()):
            if chat.learned[index]:
                answers += [Answer(span, lacks_end=False) for span in found[:-1]]
                answers.append(self._answer(chat, index, text, found[-1]))
        return Rendered(text, answers)

    def _answer(self, chat: Conversation, index: int, text: str, span: Span) -> Answer:
        """The answer in ``span``, extended by the end-of-turn token if the template writes it after the span."""
        start, end = span
        if self._template(chat).marks_answers:  # Other spans reach to the end of the turn already.
            token = self._end_token.match(self._tail(chat, index, text, end))
            if token and text.startswith(token[0], end):
                return Answer((start, end + token.end()), lacks_end=False)
        end = start + len(text[start:end].rstrip())
        return Answer((start, end), lacks_end=not text[start:end].endswith(self._tokens))

    def _tail(self, chat: Conversation, index: int, text: str, end: int) -> str:
        """What the template writes between ``end``, in the turn of ``messages[index]``, and the next message."""
        if index == len(chat.messages) - 1:
            return text[end:]
        until_answer = self._text(chat, chat.messages[: index + 1], generation_prompt=False)[0]
        return until_answer[end:] if until_answer.startswith(text[:end]) else ""

    def _marked_spans(self, chat: Conversation, text: str, marks: Sequence[Span]) -> dict[int, list[Span]]:
        """The spans of each assistant message, from those that the template marks."""
        marks = [(start, end) for start, end in marks if start < end]
        indices = [index for index, message in enumerate(chat.messages) if message["role"] == ASSISTANT]
        if not marks:
            raise BadRow("the model's chat template omits every answer; use another chat template")
        if len(marks) == len(indices):
            return {index: [mark] for index, mark in zip(indices, marks, strict=True)}
        # A template may mark the parts of an answer one by one. They belong to the message whose turn they are in.
        ends = [self._end(chat, index, text) for index in indices]
        spans: dict[int, list[Span]] = {index: [] for index in indices}
        for mark in marks:
            owner = next((index for index, end in zip(indices, ends, strict=True) if mark[0] < end), indices[-1])
            spans[owner].append(mark)
        if any(chat.learned[index] and not found for index, found in spans.items()):
            raise BadRow("the model's chat template leaves out an answer; use another chat template")
        return {index: found for index, found in spans.items() if found}

    def _added_spans(self, chat: Conversation, text: str) -> dict[int, list[Span]]:
        """The spans of each learned message: from the end of the generation prompt to the next message."""
        return {
            index: [(self._start(chat, index, text), self._end(chat, index, text))]
            for index, learned in enumerate(chat.learned)
            if learned
        }

    def _end(self, chat: Conversation, index: int, text: str) -> int:
        """End of the turn of ``messages[index]``, without white space after an end-of-turn token."""
        if index == len(chat.messages) - 1:
            return len(text)
        until_answer = self._text(chat, chat.messages[: index + 1], generation_prompt=False)[0]
        if text.startswith(until_answer):
            return len(until_answer)
        # Some templates render the last answer differently from earlier ones, such as with an empty thinking block, or
        # end only the last one. Then search for the content of the answer, and for what follows it in both texts.
        content = chat.messages[index]["content"]
        content = content.strip() if isinstance(content, str) else ""
        found, last = text.find(content, self._start(chat, index, text)), until_answer.rfind(content)
        if not content or found < 0 or last < 0:
            raise BadRow(_CHANGED_ANSWER)
        end = found + len(content)
        return end + _common_length(text[end:], until_answer[last + len(content) :])

    def _start(self, chat: Conversation, index: int, text: str) -> int:
        """Start of ``messages[index]``: the end of the longest prefix of the generation prompt in ``text``.

        The generation prompt of a reasoning model can end with the start of a thinking block that the answer lacks.
        """
        before = chat.messages[:index]
        if not before:
            return self._start_of_first(chat, text)
        prompt, _ = self._text(chat, before, generation_prompt=True)
        if text.startswith(prompt):
            return len(prompt)
        history, _ = self._text(chat, before, generation_prompt=False)
        if not text.startswith(history):
            raise BadRow(
                f"the model's chat template changes what is before the answer in message {index + 1} when the "
                "conversation goes on, so that answer would be learned for another prompt than it gets; set its weight "
                "to 0, or end the row with it"
            )
        return _common_length(prompt, text)

    def _start_of_first(self, chat: Conversation, text: str) -> int:
        """Start of the first message, an answer: after the first generation prompt in ``text``.

        Before it, a template may write a token and a system message of its own. Many templates cannot render an empty
        conversation, which would be the prompt, so the generation prompt is what they append to the whole one.
        """
        whole, _ = self._text(chat, chat.messages, generation_prompt=True)
        prompt = whole[len(text) :] if whole.startswith(text) else ""
        found = text.find(prompt) if prompt else -1
        if found < 0:
            raise BadRow(
                "the conversation begins with an answer, and the model's chat template does not show where it starts; "
                "put a message of the user or system before it"
            )
        return found + len(prompt)

    def _template(self, chat: Conversation) -> _Template:
        without_tools, with_tools = self._templates
        return with_tools if chat.tools else without_tools

    def _text(
        self, chat: Conversation, messages: Sequence[Message], *, generation_prompt: bool
    ) -> tuple[str, list[Span]]:
        template = self._template(chat)
        try:
            with time_limit(SECONDS_A_RENDERING):
                texts, spans = self._render(
                    [list(messages)],
                    tools=chat.tools,
                    chat_template=template.text,
                    return_assistant_tokens_mask=template.marks_answers,
                    add_generation_prompt=generation_prompt,
                    **self._special_tokens,
                )
        except (TemplateSyntaxError, TimeoutError, MemoryError) as error:
            raise _unusable(error) from None
        except Exception as error:  # The template is the code of somebody else, and may raise anything.
            reason = first_line(error).rstrip(". ")[:200]
            raise BadRow(f"the model's chat template rejects the conversation ({reason}); correct the row") from None
        return texts[0], spans[0] if template.marks_answers else []


def _unusable(error: Exception) -> StageFailure:
    """The failure for a template that cannot render any conversation."""
    problems = {
        TimeoutError: f"takes longer than {SECONDS_A_RENDERING} s for one conversation",
        MemoryError: "needs more memory for one conversation than there is",
    }
    problem = problems.get(type(error)) or f"is not valid Jinja ({str(error).strip().splitlines()[0][:200]})"
    return StageFailure(
        Reason.BAD_CONFIGURATION, f"The chat template of the model {problem}: correct it, or use another model"
    )


def _common_length(left: str, right: str) -> int:
    """Length of the longest common prefix."""
    equal = (one == other for one, other in zip(left, right, strict=False))
    return sum(1 for _ in takewhile(bool, equal))
