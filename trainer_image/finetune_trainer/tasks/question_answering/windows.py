"""The windows of a context: token sequences with the question that fit the model, and the span of the answer in each.

Pure, apart from the tokenizer. `finetune_trainer.prepared` describes the columns.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from finetune_trainer.modelling.tokenizer import encoding_explained
from finetune_trainer.prepare.arrays import TOKENS, texts, token_lists
from finetune_trainer.prepare.encoded import Encoded
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import Example
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.question_answering.offsets import Offsets, TokenSpans
from finetune_trainer.tasks.question_answering.positions import Placed, Span, place, shown
from finetune_trainer.tasks.question_answering.rows import Question, named
from finetune_trainer.tasks.question_answering.scoring import normalised

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

DEFAULT_OVERLAP = 128
_LEAST_ROOM = 8
"""Context tokens that a window of a longer context has at least."""

_LISTS = (
    "input_ids",
    "token_type_ids",
    "window_lengths",
    "null_positions",
    "context_starts",
    "context_lengths",
    "context_firsts",
    "starts",
    "ends",
    "offsets",
    "answer_spans",
    "remarks",
)
_TEXTS = ("question", "context", "answers", "id")


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens of a context, counted from its first; ``last`` is inclusive."""

    first: int
    last: int


@dataclass(slots=True)
class _Windowed:
    """A question as windows."""

    tokens: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    nulls: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Where the context begins in each window."""
    counts: list[int] = field(default_factory=list)
    """Tokens of the context in each window."""
    firsts: list[int] = field(default_factory=list)
    """The first token of each window, in the whole context."""
    offsets: Offsets = field(default_factory=list)
    """Of the tokens of the whole context."""


class WindowTokeniser:
    """Tokenises questions with their contexts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int, overlap: int) -> None:
        # A copy, because truncation is a setting of the backend, and the tokenizer is saved without changes.
        self._backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._spans = TokenSpans(tokenizer)
        self._null_token = tokenizer.cls_token_id
        self._length = max_length
        self._overlap = overlap

    @property
    def fields(self) -> list[pa.Field]:
        return [*(pa.field(name, TOKENS) for name in _LISTS), *(pa.field(name, pa.string()) for name in _TEXTS)]

    def encode(self, examples: Sequence[Example]) -> Encoded:
        questions = [example for example in examples if isinstance(example, Question)]
        assert len(questions) == len(examples)
        with encoding_explained():
            rooms = self._rooms(questions)
            encodings = self._encodings(questions, rooms)
        problems: dict[int, BadRow] = {}
        lists: dict[str, list[Sequence[int]]] = {name: [] for name in _LISTS}
        columns: dict[str, list[str]] = {name: [] for name in _TEXTS}
        for index, question in enumerate(questions):
            try:
                row = self._row(question, encodings.get(index), rooms[index])
            except BadRow as problem:
                problems[index] = named(problem, question.id)
                continue
            for name, values in row.items():
                lists[name].append(values)
            columns["question"].append(question.question)
            columns["context"].append(question.context)
            columns["answers"].append(json.dumps([answer.text for answer in question.answers], ensure_ascii=False))
            columns["id"].append(question.id)
        arrays: dict[str, Any] = {name: token_lists(values) for name, values in lists.items()}
        arrays |= {name: texts(values) for name, values in columns.items()}
        return Encoded(arrays, np.zeros(len(questions) - len(problems), np.bool_), problems)

    def _rooms(self, questions: Sequence[Question]) -> list[int]:
        """Tokens of the context that fit beside each question."""
        self._backend.no_truncation()
        alone = self._backend.encode_batch_fast([one.question for one in questions], add_special_tokens=False)
        special = self._backend.num_special_tokens_to_add(True)
        return [self._length - special - len(encoding.ids) for encoding in alone]

    def _encodings(self, questions: Sequence[Question], rooms: Sequence[int]) -> dict[int, Encoding]:
        """The first window of each question that has room, with its others as ``overflowing``."""
        alike = defaultdict(list)
        for index, room in enumerate(rooms):
            if room > 0:
                alike[overlap_of(self._overlap, room)].append(index)
        found: dict[int, Encoding] = {}
        for overlap, indices in alike.items():
            self._backend.enable_truncation(self._length, stride=overlap, strategy="only_second", direction="right")
            pairs = [(questions[index].question, questions[index].context) for index in indices]
            found |= dict(zip(indices, self._backend.encode_batch(pairs), strict=True))
        return found

    def _row(self, question: Question, encoding: Encoding | None, room: int) -> dict[str, list[int]]:
        if encoding is None or (encoding.overflowing and room < _LEAST_ROOM):
            raise BadRow(
                f"the question leaves {max(room, 0)} of {self._length} tokens for its context, too few; shorten it, or "
                "raise training.maxSequenceLength, if the model supports more"
            )
        placed = place(question.context, question.answers)
        windowed = self._windowed(question, encoding, room)
        labels = _labels(question, placed, windowed, overlap_of(self._overlap, room))
        return {
            "input_ids": windowed.tokens,
            "token_type_ids": windowed.types,
            "window_lengths": windowed.lengths,
            "null_positions": windowed.nulls,
            "context_starts": windowed.starts,
            "context_lengths": windowed.counts,
            "context_firsts": windowed.firsts,
            "starts": [start for start, _ in labels],
            "ends": [end for _, end in labels],
            "offsets": [character for offset in windowed.offsets for character in offset],
            "answer_spans": [character for span in placed.spans for character in (span.start, span.end)],
            "remarks": [placed.moved, placed.ambiguous, placed.absent],
        }

    def _windowed(self, question: Question, encoding: Encoding, room: int) -> _Windowed:
        result = _Windowed()
        step = room - overlap_of(self._overlap, room)
        context: list[int] = []
        offsets: Offsets = []
        for number, window in enumerate((encoding, *encoding.overflowing)):
            tokens, places, first = window.ids, window.sequence_ids, number * step
            if 1 not in places or 0 not in places:
                what = "context" if 1 not in places else "question"
                raise BadRow(f"the {what} has no tokens; write it with characters that the tokenizer knows")
            start, count = places.index(1), places.count(1)
            result.tokens += tokens
            result.types += window.type_ids
            result.lengths.append(len(tokens))
            result.nulls.append(tokens.index(self._null_token) if self._null_token in tokens else 0)
            result.starts.append(start)
            result.counts.append(count)
            result.firsts.append(first)
            new = slice(start + len(context) - first, start + count)
            context += tokens[new]
            offsets += window.offsets[new]
        result.offsets = self._spans.of(question.context, context, offsets)
        return result


def overlap_of(wanted: int, room: int) -> int:
    """Tokens that consecutive windows have in common: as many as wanted, but at most half of a window.

    Args:
        wanted: task.windowOverlap.
        room: Tokens of the context in a window.
    """
    return min(wanted, room // 2)


def tokens_of(offsets: Offsets, span: Span) -> TokenSpan | None:
    """The tokens that cover ``span``; None if no token has characters of it."""
    touching = [index for index, (start, end) in enumerate(offsets) if start < span.end and end > span.start]
    return TokenSpan(touching[0], touching[-1]) if touching else None


def _labels(question: Question, placed: Placed, windowed: _Windowed, overlap: int) -> list[tuple[int, int]]:
    """First and last token of the answer in each window, as positions in it.

    They are the null position in a window without an answer, and `IGNORED_LABEL` in one that has a part of one and none
    as a whole.

    Raises:
        BadRow: The question has answers, and no window has one.
    """
    answers, touched, problems = [], [], []
    for span in placed.spans:
        if tokens := tokens_of(windowed.offsets, span):
            touched.append(tokens)
        try:
            answers.append(_covering(question.context, windowed.offsets, span, tokens))
        except BadRow as problem:
            problems.append(problem)
    if problems and not answers:
        raise problems[0]
    labels, learned = [], False
    for first, count, start, null in zip(
        windowed.firsts, windowed.counts, windowed.starts, windowed.nulls, strict=True
    ):
        last = first + count - 1
        whole = next((answer for answer in answers if first <= answer.first and answer.last <= last), None)
        if whole is not None:
            labels.append((start + whole.first - first, start + whole.last - first))
            learned = True
        elif any(tokens.first <= last and tokens.last >= first for tokens in touched):
            labels.append((IGNORED_LABEL, IGNORED_LABEL))
        else:
            labels.append((null, null))
    if answers and not learned:
        length = min(answer.last - answer.first + 1 for answer in answers)
        raise BadRow(
            f"the answer {shown(question.answers[0].text)} has {length} tokens and is whole in no window, because "
            f"windows overlap by {overlap}; raise task.windowOverlap or training.maxSequenceLength"
        )
    return labels


def _covering(context: str, offsets: Offsets, span: Span, tokens: TokenSpan | None) -> TokenSpan:
    """``tokens``, if they stand for the answer at ``span``.

    Raises:
        BadRow: They stand for other words as well, so that the tokenizer cannot point at the answer.
    """
    text = context[span.start : span.end]
    covered = "" if tokens is None else context[offsets[tokens.first][0] : offsets[tokens.last][1]]
    if tokens is None or (covered != text and (text not in covered or normalised(covered) != normalised(text))):
        raise BadRow(
            f"the tokenizer cannot point at the answer {shown(text)}: its tokens there stand for {shown(covered)}; "
            "take whole words as the answer"
        )
    return tokens
