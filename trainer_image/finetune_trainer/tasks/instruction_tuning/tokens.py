"""InstructionTuning: tokenises conversations, and labels the tokens of assistant messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.modelling.tokenizer import encoding_explained, plain_backend
from finetune_trainer.prepare.arrays import TOKENS, integers, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.instruction_tuning.coverage import Span
from finetune_trainer.tasks.instruction_tuning.messages import Conversation, Message
from finetune_trainer.tasks.instruction_tuning.rendering import Answer, ChatRenderer, Rendered

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast


ANSWER_FIELDS = (
    pa.field("input_ids", TOKENS),
    pa.field("labels", TOKENS),
    pa.field("prompt_length", pa.int32()),
    pa.field("reference", pa.string()),
    pa.field("prompt", pa.string()),
)
"""The columns of a row with one prompt and one answer for decoders."""


class ChatTokeniser:
    """Renders conversations with the chat template, and labels every learned answer including its end.

    The end of an answer is the end-of-turn token that the chat template writes, or else the end-of-sequence token of
    the tokenizer. A conversation of more than ``max_length`` tokens is an invalid row, because a truncated one would
    teach the model to stop at arbitrary positions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int, *, learns_all: bool = False) -> None:
        """``learns_all``: refuse a row that excludes a message from what is learned."""
        self._learns_all = learns_all
        self._renderer = ChatRenderer(tokenizer)
        self._backend = plain_backend(tokenizer)
        self._max_length = max_length
        self._end_of_sequence = tokenizer.eos_token_id
        self._text = AnswerText(tokenizer)
        self._special = special_tokens(tokenizer)
        self.answers = AnswerTokens()

    @property
    def fields(self) -> list[pa.Field]:
        return list(ANSWER_FIELDS)

    def encode(self, examples: Sequence[Example]) -> Encoded:
        problems: dict[int, BadRow] = {}
        rendered: list[tuple[int, Conversation, Rendered]] = []
        for index, example in enumerate(examples):
            assert isinstance(example, Conversation)
            try:
                rendered.append((index, example, self._renderer.render(example)))
            except BadRow as problem:
                problems[index] = problem
        with encoding_explained():
            encodings = self._backend.encode_batch([chat.text for _, _, chat in rendered], add_special_tokens=False)
        rows: list[_Row] = []
        for (index, conversation, chat), encoding in zip(rendered, encodings, strict=True):
            try:
                rows.append(self._row(conversation, chat, encoding))
            except BadRow as problem:
                problems[index] = problem
        columns = {
            "input_ids": token_lists([row.ids for row in rows]),
            "labels": token_lists([row.labels for row in rows]),
            "prompt_length": integers(np.asarray([row.prompt_length for row in rows], np.int32)),
            "reference": texts([row.reference for row in rows]),
            "prompt": texts([row.prompt for row in rows]),
        }
        return Encoded(columns, np.zeros(len(rows), np.bool_), problems)

    def _row(self, conversation: Conversation, chat: Rendered, encoding: Encoding) -> _Row:
        if self._learns_all and conversation.weight_zero is not None:
            raise BadRow(
                f"message {conversation.weight_zero} has the weight 0, but task.loss All learns every message; remove "
                "the weight, or set task.loss to Assistant"
            )
        ids = list(encoding.ids)
        labels = [IGNORED_LABEL] * len(ids)
        first = last = len(ids)
        for answer in chat.answers:
            first, last = token_range(encoding, answer.span)
            labels[first:last] = encoding.ids[first:last]
            if first < last:
                inside = last if answer.lacks_end else last - 1
                self.answers.inside.update(self._special.intersection(encoding.ids[first:inside]))
                self._label_end(answer, ids, labels, last)
        if first == last:
            raise BadRow("the last answer has no tokens; add text to it or remove the row")
        if first == 0:
            raise BadRow("nothing is before the answer, so there is no prompt; put a message of the user before it")
        if len(ids) > self._max_length:
            raise BadRow(
                f"the conversation has {len(ids)} tokens, more than the sequence length of {self._max_length}; shorten "
                "it, or raise training.maxSequenceLength if the model supports more"
            )
        index = conversation.last_learned
        prompt = readable(conversation.messages[:index])
        return _Row(ids, labels, first, self._text(conversation.messages[index], ids[first:last]), prompt)

    def _label_end(self, answer: Answer, ids: list[int], labels: list[int], last: int) -> None:
        """Label the end of an answer whose last token is that before ``last``.

        If the chat template writes no end-of-turn token, the position after the answer gets the end-of-sequence token
        as its label. The input tokens stay those that the template renders, as they are when the model is served.

        Raises:
            StageFailure: BadConfiguration when the tokenizer has no end-of-sequence token.
        """
        if not answer.lacks_end:
            self.answers.ends[labels[last - 1]] += 1
            return
        end = self._end_of_sequence
        if end is None:
            raise no_end_token()
        self.answers.ends[end] += 1
        if last == len(ids):
            ids.append(end)
            labels.append(end)
        else:
            labels[last] = end


class AnswerText:
    """An answer as text: its content, or the decoded tokens if it also has reasoning or calls tools."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def __call__(self, message: Message, tokens: list[int]) -> str:
        content = message["content"]
        plain = isinstance(content, str) and set(message) <= {"role", "content", "name"}
        return content if plain else str(self._decode(tokens))


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The ids of all tokens that are no text."""
    return frozenset(tokenizer.added_tokens_decoder) | frozenset(tokenizer.all_special_ids)


def no_end_token() -> StageFailure:
    """The failure of a model whose answers nothing would end."""
    return StageFailure(
        Reason.BAD_CONFIGURATION,
        "The chat template of the model writes no token after an answer, and its tokenizer has no end-of-sequence "
        "token, so no answer would end: add eos_token to tokenizer_config.json",
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A tokenised conversation; its fields are those of `ChatTokeniser.fields`."""

    ids: list[int]
    labels: list[int]
    prompt_length: int
    reference: str
    prompt: str


def token_range(encoding: Encoding, span: Span) -> tuple[int, int]:
    """The range of tokens, with an exclusive end, that overlap ``span``.

    It includes a token that starts before the span, such as a space merged with the first word; as part of the prompt,
    that token would reveal the start of the answer.

    Returns:
        Start and end; both are the number of tokens when no token overlaps ``span``.
    """
    start, end = span
    first = last = None
    while start < end and (first := encoding.char_to_token(start)) is None:
        start += 1  # The tokenizer has dropped white space.
    while end > start and (last := encoding.char_to_token(end - 1)) is None:
        end -= 1
    return (len(encoding.ids), len(encoding.ids)) if first is None or last is None else (first, last + 1)


def readable(messages: Sequence[Message]) -> str:
    """Messages as readable text: the content of a single user message, otherwise ``role: content`` paragraphs."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return _readable_content(messages[0])
    return "\n\n".join(f"{message['role']}: {_readable_content(message)}" for message in messages)


def _readable_content(message: Message) -> str:
    content = message["content"]
    parts = [content] if isinstance(content, str) else [part["text"] for part in content]
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(part for part in (*parts, *calls) if part)
