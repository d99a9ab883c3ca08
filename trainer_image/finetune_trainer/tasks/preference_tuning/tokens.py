"""PreferenceTuning: tokenises prompts and answers as they are when a model generates.

The prompt has the same tokens for all of its answers, and before a generated answer: those of its text alone. Together
with an answer its last characters may merge into other tokens; the answer is then tokenised alone, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_trainer.modelling.tokenizer import encoding_explained, plain_backend
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.special_tokens import AnswerTokens
from finetune_trainer.tasks.instruction_tuning.messages import Conversation
from finetune_trainer.tasks.instruction_tuning.rendering import ChatRenderer
from finetune_trainer.tasks.instruction_tuning.tokens import AnswerText, no_end_token, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt with one or more answers, as tokens and as text."""

    prompt: list[int]
    answers: tuple[list[int], ...]
    """Each with its end token."""
    texts: tuple[str, ...]
    truncated: bool
    """Whether the beginning of the prompt is cut off."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    prompt: str
    answers: tuple[str, ...]
    lack_end: tuple[bool, ...]

    @property
    def texts(self) -> Iterator[str]:
        """What is tokenised: the prompt, each answer after it, and each answer."""
        yield self.prompt
        for answer in self.answers:
            yield self.prompt + answer
            yield answer


class AnswerTokeniser:
    """Tokenises conversations whose last message is the answer.

    A prompt that leaves no room for the longest of its answers loses its beginning, except a beginning-of-sequence
    token. Answers are never cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self._renderer = ChatRenderer(tokenizer)
        self._backend = plain_backend(tokenizer)
        self._max_length = max_length
        self._begin = tokenizer.bos_token_id
        self._end = tokenizer.eos_token_id
        self._special = special_tokens(tokenizer)
        self._text = AnswerText(tokenizer)
        self.answers = AnswerTokens()

    def encode(self, rows: Sequence[tuple[Conversation, ...]]) -> list[Answered | BadRow]:
        """Tokenise rows; the conversations of a row differ in the last message only.

        Raises:
            StageFailure: BadConfiguration when the tokenizer or the chat template is unusable.
        """
        rendered = [self._rendered(chats) for chats in rows]
        texts = [text for row in rendered if isinstance(row, _Rendered) for text in row.texts]
        with encoding_explained():
            encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        results: list[Answered | BadRow] = []
        for chats, row in zip(rows, rendered, strict=True):
            if isinstance(row, BadRow):
                results.append(row)
                continue
            ids = [list(next(encodings).ids) for _ in row.texts]
            try:
                results.append(self._answered(chats, row, ids))
            except BadRow as problem:
                results.append(problem)
        return results

    def _rendered(self, chats: Sequence[Conversation]) -> _Rendered | BadRow:
        prompts, answers, lack_end = set(), [], []
        try:
            for chat in chats:
                rendered = self._renderer.render(chat)
                first, last = rendered.answers[0], rendered.answers[-1]
                prompts.add(rendered.text[: first.span[0]])
                answers.append(rendered.text[first.span[0] : last.span[1]])
                lack_end.append(last.lacks_end)
            if len(prompts) > 1:
                raise BadRow(
                    "the model's chat template writes another prompt for each of the answers; use another chat "
                    "template, or answers of the same form"
                )
        except BadRow as problem:
            return problem
        return _Rendered(prompts.pop(), tuple(answers), tuple(lack_end))

    def _answered(self, chats: Sequence[Conversation], row: _Rendered, ids: list[list[int]]) -> Answered:
        """The tokens of a row; ``ids`` are those of `_Rendered.texts`."""
        prompt, pairs = ids[0], zip(ids[1::2], ids[2::2], strict=True)
        answers = []
        for (joint, alone), lacks_end in zip(pairs, row.lack_end, strict=True):
            answer = joint[len(prompt) :] if joint[: len(prompt)] == prompt else alone
            if not answer:
                raise BadRow("an answer has no tokens; add text to it or remove the row")
            if lacks_end:
                if self._end is None:
                    raise no_end_token()
                answer = [*answer, self._end]
            answers.append(answer)
        if not prompt:
            raise BadRow("nothing is before the answer, so there is no prompt; put a message of the user before it")
        if len(answers) > 1 and answers[0] == answers[1]:
            raise BadRow("both answers have the same tokens for the model, so the pair says nothing; remove the row")
        texts = tuple(self._text(chat.messages[-1], answer) for chat, answer in zip(chats, answers, strict=True))
        kept = self._cut(prompt, max(map(len, answers)))
        for answer in answers:
            self.answers.ends[answer[-1]] += 1
            self.answers.inside.update(self._special.intersection(answer[:-1]))
        return Answered(kept, tuple(answers), texts, len(kept) < len(prompt))

    def _cut(self, prompt: list[int], answer: int) -> list[int]:
        """The end of ``prompt`` that fits before ``answer`` tokens."""
        room = self._max_length - answer
        if len(prompt) <= room:
            return prompt
        begin = prompt[:1] if self._begin is not None and prompt[0] == self._begin else []
        if room <= len(begin):
            raise BadRow(
                f"the answer has {answer} tokens with its end, which leaves no room for the prompt in the sequence "
                f"length of {self._max_length}; shorten it or raise training.maxSequenceLength"
            )
        return [*begin, *prompt[len(prompt) - room + len(begin) :]]
