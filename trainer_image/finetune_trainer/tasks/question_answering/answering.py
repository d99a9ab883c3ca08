"""QuestionAnswering with an encoder: runs a model on the windows of questions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finetune_trainer.evaluate.comparison import EvaluationInputs, ExampleCounter
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.modelling.batching import BatchLimits, each_batch, length_sorted, padded
from finetune_trainer.modelling.loading import check_finite, check_vocabulary
from finetune_trainer.modelling.outputs import logits_of, takes_token_types
from finetune_trainer.tasks.question_answering.batches import Windows
from finetune_trainer.tasks.question_answering.offsets import Offsets
from finetune_trainer.tasks.question_answering.scoring import Scores
from finetune_trainer.tasks.question_answering.spans import BestSpans, Logits, best_span, is_answered, text_of

_LIMITS = {"cpu": BatchLimits(examples=64, tokens=8192), "cuda": BatchLimits(examples=512, tokens=131072)}

Read = Callable[[torch.Tensor, Ints], None]
"""Called with an output of a model for the windows with these indices."""


class Questions:
    """The questions of a split."""

    def __init__(self, table: pa.Table) -> None:
        self.windows = Windows.of(table)
        self.contexts: list[str] = table["context"].to_pylist()
        self.references: list[list[str]] = [json.loads(answers) for answers in table["answers"].to_pylist()]
        self.offsets: list[Offsets] = [pairs(row) for row in table["offsets"].to_pylist()]
        self._blank = [np.array([start == end for start, end in offsets], np.bool_) for offsets in self.offsets]

    def __len__(self) -> int:
        return len(self.contexts)

    def positions(self, window: int) -> slice:
        """The tokens of the context in a window."""
        start = int(self.windows.context_starts[window])
        return slice(start, start + int(self.windows.context_lengths[window]))

    def note(self, found: BestSpans, window: int, logits: Logits, null: float, longest: int) -> None:
        """Note the best span of a window.

        Args:
            found: Where to note it, at the index of the window.
            window: Index of the window.
            logits: Of its context as start and as end, of shape (2, tokens).
            null: Sum of the two logits of its null position.
            longest: Largest number of tokens of an answer.
        """
        offset, length = int(self.windows.context_firsts[window]), int(self.windows.context_lengths[window])
        # At tokens without characters no answer starts or ends.
        blank = self._blank[int(self.windows.questions[window])][offset : offset + length]
        first, last, score = best_span(logits, blank, longest)
        found.first[window], found.last[window], found.score[window] = offset + first, offset + last, score
        found.null[window] = null


@dataclass(frozen=True)
class Predicted:
    """The answers of a model to the questions of a split."""

    spans: list[tuple[int, int] | None]
    """Slice of the context; None for no answer."""
    texts: list[str]
    """Empty for no answer."""
    scores: Scores

    @classmethod
    def of(cls, questions: Questions, best: BestSpans, threshold: float | None) -> Predicted:
        given = is_answered(best.margin, threshold) & np.isfinite(best.score)
        spans = [
            text_of(questions.offsets[row], int(best.first[row]), int(best.last[row])) if given[row] else None
            for row in range(len(questions))
        ]
        texts = [
            "" if span is None else context[slice(*span)]
            for context, span in zip(questions.contexts, spans, strict=True)
        ]
        return cls(spans, texts, Scores.of(texts, questions.references))

    @classmethod
    def none(cls, questions: Questions) -> Predicted:
        """No question gets an answer."""
        texts = [""] * len(questions)
        return cls([None] * len(questions), texts, Scores.of(texts, questions.references))


class SpanRunner:
    """Runs models on windows."""

    def __init__(self, inputs: EvaluationInputs) -> None:
        self._inputs = inputs
        self._limits = _LIMITS[inputs.hardware.device.type].unless_alone(inputs.data.handling.batching)

    def best_spans(self, model: Any, name: str, questions: Questions, longest: int, activity: str) -> BestSpans:
        """The best span of each question, of at most ``longest`` tokens, according to a model with a span head.

        Raises:
            StageFailure: Diverged when an output is not finite.
        """
        windows, found = questions.windows, BestSpans.empty(len(questions.windows))

        def read(logits: torch.Tensor, batch: Ints) -> None:
            check_finite(logits, name, "output")
            for row, window in zip(logits.cpu().numpy(), batch.tolist(), strict=True):
                null = row[:, windows.nulls[window]].sum()
                questions.note(found, window, row[:, questions.positions(window)], null, longest)

        self.each(model, windows, activity, read)
        return found.of_questions(windows.questions, len(questions))

    def each(self, model: Any, windows: Windows, activity: str, read: Read, chosen: Ints | None = None) -> None:
        """Run a model on windows, and read its logits (batch, 2, tokens) or hidden states (batch, tokens, width)."""
        hardware = self._inputs.hardware
        listed = np.arange(len(windows)) if chosen is None else chosen
        check_vocabulary(model, windows.tokens)
        with_types = takes_token_types(model)
        counter = ExampleCounter(self._inputs.reporter, activity, len(listed))

        def work(batch: Ints) -> None:
            at = listed[batch]
            tokens, mask = padded(windows.tokens, at, self._inputs.data.padding)
            batch_inputs = {"input_ids": tokens, "attention_mask": mask}
            if with_types:
                batch_inputs["token_type_ids"] = padded(windows.types, at, 0)[0]
            on_device = {name: tensor.to(hardware.device) for name, tensor in batch_inputs.items()}
            with torch.inference_mode(), hardware.autocast():
                outputs = model(**on_device)
            hidden = getattr(outputs, "last_hidden_state", None)
            read((logits_of(outputs) if hidden is None else hidden).float(), at)
            counter.add(len(batch))

        each_batch(length_sorted(windows.tokens.lengths[listed], self._limits), work)


def pairs(values: list[int]) -> Offsets:
    """Starts and ends, which are stored one after the other."""
    return list(zip(values[::2], values[1::2], strict=True))
