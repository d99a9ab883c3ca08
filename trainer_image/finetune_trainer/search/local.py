"""A model on this machine that answers prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.spec.outcome import GenerationSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.evaluate.answer_scoring import AnswerForm
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.generation import Generator
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.evaluate.prompts import CausalPrompts, Seq2SeqPrompts
from finetune_trainer.evaluate.token_scores import token_scores
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.tokenizer import plain_backend, plain_decode
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.search.asked import Cost, Inputs, OnExamples, Spent
from finetune_trainer.search.prompt import Prompt
from finetune_trainer.search.rendering import CausalRenderer, Fitting, Renderer, Seq2SeqRenderer
from finetune_trainer.search.templates import until_empty_line

_ROWS_AT_ONCE = 256
_WRITING = GenerationSpec(max_new_tokens=96, samples=2, temperature=0.9)
"""Settings for drawn answers; with one sample they would be greedy."""


class LocalModel:
    """Implements `finetune_trainer.search.asked.Asked`.

    Labels are ranked by the mean log-likelihood of the tokens of their text behind the prompt.
    """

    def __init__(self, inputs: EvaluationInputs, form: AnswerForm | None, tokenizer: Any) -> None:
        """
        Args:
            inputs: Inputs of the evaluation.
            form: How answers are generated, for a task whose answers are texts.
            tokenizer: The tokenizer of the prepared data.
        """
        self._inputs = inputs
        self._form = form
        self._tokenizer = tokenizer
        self._seq2seq = inputs.data.family is ModelFamily.SEQ2SEQ
        self._renderer: Renderer = (
            Seq2SeqRenderer(tokenizer, inputs.spec) if self._seq2seq else CausalRenderer(tokenizer, inputs.data)
        )
        self._backend = plain_backend(tokenizer)
        self._ends_at_empty_line = until_empty_line(tokenizer)
        self._model: Any = inputs.load(inputs.base).complete()
        self.unusable = 0

    @property
    def spent(self) -> Spent:
        return Spent()

    def most(self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str]) -> Cost:
        if labels:
            endings, _ = self._endings(prompt, inputs[0], labels)
            written = sum(map(len, endings))
        else:
            endings, written = [], self._new_tokens
        _, lengths, shortened = self._fitting(endings).fitted(prompt, inputs)
        return Cost(int(lengths.sum()) + written * len(inputs), shortened)

    def ranked(
        self, prompt: Prompt, inputs: Sequence[Inputs], labels: Sequence[str], on_examples: OnExamples
    ) -> tuple[NDArray[Any], Cost]:
        endings, earlier = self._endings(prompt, inputs[0], labels)
        fitting = self._fitting(endings)
        found, tokens, shortened = [], 0, 0
        for first in range(0, len(inputs), _ROWS_AT_ONCE):
            table, lengths, cut = fitting.fitted(prompt, inputs[first : first + _ROWS_AT_ONCE])
            prompts = TokenRows.of_column(table["input_ids"]).heads(lengths - earlier)
            found.append(self._means(_continued(prompts, endings), len(labels), on_examples))
            on_examples(len(lengths))
            tokens += int(lengths.sum()) + sum(map(len, endings)) * len(lengths)
            shortened += cut
        means = np.concatenate(found)
        likely = np.exp(means.min(axis=1, keepdims=True) - means)
        return likely / likely.sum(axis=1, keepdims=True), Cost(tokens, shortened)

    def answers(self, prompt: Prompt, inputs: Sequence[Inputs], on_examples: OnExamples) -> tuple[list[str], Cost]:
        assert self._form is not None
        table, lengths, shortened = self._fitting([]).fitted(prompt, inputs)
        prompts = self._form.prompts.of_table(table)
        prompts.check(self._model)
        settings = self._inputs.spec.evaluation.generation
        decode = self._form.decode(self._tokenizer)
        generator = Generator(self._inputs.data, settings, decode, self._inputs.hardware)
        found = generator.answers(self._model, prompts, on_examples)
        tokens = int(lengths.sum()) + self._tokens(found)
        return [self._read(answer) for answer in found], Cost(tokens, shortened)

    def written(self, message: str, number: int) -> tuple[str, Cost]:
        table = self._renderer.table(Prompt("{message}"), [{"message": message}], [message])
        kind = Seq2SeqPrompts if self._seq2seq else CausalPrompts
        generator = Generator(self._inputs.data, _WRITING, plain_decode(self._tokenizer), self._inputs.hardware)
        seeds = (self._inputs.spec.training.seed, number)
        found = generator.answers(self._model, kind.of_table(table), lambda _: None, seeds)
        return self._read(found[0]), Cost(int(self._renderer.lengths(table).sum()) + self._tokens(found))

    def _means(self, rows: CausalPrompts, labels: int, on_examples: OnExamples) -> NDArray[Any]:
        """The mean loss of the tokens of each label, of shape (rows, labels)."""
        rows.check(self._model)
        scores = token_scores(self._inputs, rows, "baseline", self._model, lambda _: on_examples(0))
        return np.array([float(losses.mean()) for losses in scores.losses]).reshape(-1, labels)

    def _endings(self, prompt: Prompt, inputs: Inputs, labels: Sequence[str]) -> tuple[list[list[int]], int]:
        """The tokens of each label behind a prompt, without the token that ends an answer.

        Where the first token of a label begins in the prompt, those of all labels begin there.

        Returns:
            The tokens, and how many of them are in the prompt.
        """
        short = dict.fromkeys(inputs, "a")
        table = self._renderer.table(prompt, [short] * len(labels), labels)
        lengths = self._renderer.lengths(table)
        begin = int(lengths.min())
        found = []
        for tokens, learned in zip(table["input_ids"].to_pylist(), table["labels"].to_pylist(), strict=True):
            end = max(index for index, label in enumerate(learned) if label != IGNORED_LABEL)
            found.append(tokens[begin:end])
        neutral = int(self._renderer.lengths(self._renderer.table(prompt, [short], ["Answer"]))[0])
        return found, neutral - begin

    def _fitting(self, endings: Sequence[Sequence[int]]) -> Fitting:
        """What makes room for the answer: one of ``endings``, or a generated one."""
        spec, data = self._inputs.spec, self._inputs.data
        limit = spec.training.max_sequence_length or data.positions
        if limit is None or self._seq2seq:
            return Fitting(self._renderer, self._backend, limit)
        answer = max(map(len, endings)) + 1 if endings else min(self._new_tokens, limit // 2)
        return Fitting(self._renderer, self._backend, limit - answer)

    @property
    def _new_tokens(self) -> int:
        return self._inputs.spec.evaluation.generation.max_new_tokens

    def _tokens(self, texts: Sequence[str]) -> int:
        return sum(len(one.ids) for one in self._backend.encode_batch(list(texts), add_special_tokens=False))

    def _read(self, answer: str) -> str:
        return answer.strip().partition("\n\n")[0] if self._ends_at_empty_line else answer


def _continued(prompts: TokenRows, endings: Sequence[Sequence[int]]) -> CausalPrompts:
    """Each prompt with each of ``endings``, whose tokens are predicted."""
    tokens, labels, lengths = [], [], []
    for row in range(len(prompts)):
        prompt = prompts[row]
        for ending in endings:
            tokens.append(np.concatenate([prompt, np.asarray(ending, np.int32)]))
            labels.append(np.concatenate([np.full(len(prompt), IGNORED_LABEL, np.int32), ending]).astype(np.int32))
            lengths.append(len(prompt))
    return CausalPrompts(_rows(tokens), _rows(labels), np.asarray(lengths, np.int64), [""] * len(tokens))


def _rows(listed: Sequence[NDArray[np.int32]]) -> TokenRows:
    ends: Ints = np.cumsum([len(one) for one in listed])
    return TokenRows(np.concatenate(listed), np.concatenate([[0], ends]))
