"""InstructionTuning: tokenises conversations, and labels the tokens of assistant messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_trainer.prepare.arrays import TOKENS, integers, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.instruction_tuning.chat_spans import ChatRenderer, Rendered, Span
from finetune_trainer.tasks.instruction_tuning.rows import Conversation, Message

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast


class ChatTokeniser:
    """Renders conversations with the chat template, and labels every answer including its end-of-turn token.

    A conversation of more than ``max_length`` tokens is an invalid row, because a truncated one would teach the model
    to stop at arbitrary positions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self._renderer = ChatRenderer(tokenizer)
        self._backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._max_length = max_length

    @property
    def fields(self) -> list[pa.Field]:
        return [
            pa.field("input_ids", TOKENS),
            pa.field("labels", TOKENS),
            pa.field("prompt_length", pa.int32()),
            pa.field("reference", pa.string()),
            pa.field("prompt", pa.string()),
        ]

    def encode(self, examples: Sequence[Example]) -> Encoded:
        problems: dict[int, BadRow] = {}
        rendered: list[tuple[int, list[Message], Rendered]] = []
        for index, example in enumerate(examples):
            assert isinstance(example, Conversation)
            try:
                rendered.append((index, example.messages, self._renderer.render(example.messages)))
            except BadRow as problem:
                problems[index] = problem
        encodings = self._backend.encode_batch([chat.text for _, _, chat in rendered], add_special_tokens=False)
        ids: list[list[int]] = []
        targets: list[list[int]] = []
        prompt_lengths: list[int] = []
        encoded_messages: list[list[Message]] = []
        for (index, messages, chat), encoding in zip(rendered, encodings, strict=True):
            try:
                labels, prompt_length = self._labels(chat, encoding)
            except BadRow as problem:
                problems[index] = problem
                continue
            ids.append(encoding.ids)
            targets.append(labels)
            prompt_lengths.append(prompt_length)
            encoded_messages.append(messages)
        columns = {
            "input_ids": token_lists(ids),
            "labels": token_lists(targets),
            "prompt_length": integers(np.asarray(prompt_lengths, np.int32)),
            "reference": texts([messages[-1]["content"] for messages in encoded_messages]),
            "prompt": texts([readable(messages[:-1]) for messages in encoded_messages]),
        }
        return Encoded(columns, np.zeros(len(ids), np.bool_), problems)

    def _labels(self, chat: Rendered, encoding: Encoding) -> tuple[list[int], int]:
        """The label of each token, and the number of tokens before the last answer."""
        ids = encoding.ids
        if len(ids) > self._max_length:
            raise BadRow(
                f"the conversation has {len(ids)} tokens, more than the sequence length of {self._max_length}; shorten "
                "it or raise training.maxSequenceLength"
            )
        labels = [IGNORED_LABEL] * len(ids)
        first = len(ids)
        for span in chat.answers:
            first, last = token_range(encoding, span)
            labels[first:last] = ids[first:last]
        if first == len(ids):
            raise BadRow("the last answer has no tokens; add text to it or remove the row")
        return labels, first


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
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
