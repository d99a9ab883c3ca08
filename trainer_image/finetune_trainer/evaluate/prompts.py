"""The prompts and answers of the test split, in the form that the models of a family read."""

from __future__ import annotations

import sys
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import torch

from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.modelling.batching import TokenRows, padded
from finetune_trainer.modelling.loading import check_vocabulary
from finetune_trainer.modelling.shift import shift_of
from finetune_trainer.prepared import IGNORED_LABEL


class Prompts(Protocol):
    """The test split; arrays have shape (examples,)."""

    references: list[str]
    """The answers in the data."""
    lengths: Ints
    """Tokens of prompt and answer."""
    prompt_lengths: Ints
    learned: Ints
    """Tokens of the answer that have a loss."""

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        """The prompts of a prepared split."""

    def check(self, model: Any) -> None:
        """Check that ``model`` has an embedding for every token.

        Raises:
            StageFailure: BadConfiguration when it lacks one.
        """

    def score(self, model: Any, batch: Ints, padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Run ``model`` on prompts and answers.

        Args:
            model: The model.
            batch: Indices of the examples, of shape (batch,).
            padding: Token id of the padding.
            device: The device of the model.

        Returns:
            Logits of shape (batch, tokens, vocabulary), and the tokens that they predict, of shape (batch, tokens);
            tokens without a loss are `IGNORED_LABEL`.
        """

    def inputs(self, batch: Ints, padding: int, device: torch.device) -> dict[str, torch.Tensor]:
        """The arguments of ``generate`` for the prompts of a batch."""

    def generated(self, sequences: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The tokens in ``sequences``, the result of ``generate``, that the model has generated."""

    def limits(self, new_tokens: int, positions: int | None) -> Ints:
        """The largest number of new tokens for each prompt, so that they fit into the model's positions.

        Args:
            new_tokens: evaluation.generation.maxNewTokens.
            positions: Longest sequence that the model supports; None if unknown.
        """


class CausalPrompts:
    """For decoders: a row has the tokens of the prompt and the answer."""

    def __init__(self, tokens: TokenRows, labels: TokenRows, prompt_lengths: Ints, references: list[str]) -> None:
        self._tokens = tokens
        self._labels = labels
        self._prompts = tokens.heads(prompt_lengths)
        self.references = references
        self.lengths, self.prompt_lengths = tokens.lengths, prompt_lengths
        # The first token has no loss, because no token predicts it.
        self.learned = _learned(labels, first=1)

    @classmethod
    def of_table(cls, table: pa.Table) -> CausalPrompts:
        return cls(
            TokenRows.of_column(table["input_ids"]),
            TokenRows.of_column(table["labels"]),
            table["prompt_length"].to_numpy().astype(np.int64),
            table["reference"].to_pylist(),
        )

    def check(self, model: Any) -> None:
        check_vocabulary(model, self._tokens)

    def score(self, model: Any, batch: Ints, padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return next_tokens(model, self._tokens, self._labels, batch=batch, padding=padding, device=device)

    def inputs(self, batch: Ints, padding: int, device: torch.device) -> dict[str, torch.Tensor]:
        return _inputs(self._prompts, batch, padding, device, left=True)

    def generated(self, sequences: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return sequences[:, inputs["input_ids"].shape[1] :]

    def limits(self, new_tokens: int, positions: int | None) -> Ints:
        return np.minimum(new_tokens, (positions or sys.maxsize) - self.prompt_lengths)


class Seq2SeqPrompts:
    """For models with an encoder and a decoder: a row has the tokens of the source, and those of the target."""

    def __init__(self, sources: TokenRows, targets: TokenRows, references: list[str]) -> None:
        self._sources = sources
        self._targets = targets
        self.references = references
        self.prompt_lengths = sources.lengths
        self.lengths = sources.lengths + targets.lengths
        self.learned = _learned(targets, first=0)

    @classmethod
    def of_table(cls, table: pa.Table) -> Seq2SeqPrompts:
        sources, targets = (TokenRows.of_column(table[name]) for name in ("input_ids", "labels"))
        return cls(sources, targets, table["reference"].to_pylist())

    def check(self, model: Any) -> None:
        check_vocabulary(model, self._sources)

    def score(self, model: Any, batch: Ints, padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        targets = padded(self._targets, batch, IGNORED_LABEL)[0].to(device)
        inputs = _inputs(self._sources, batch, padding, device)
        return model(**inputs, decoder_input_ids=shift_of(model)(targets), use_cache=False).logits, targets

    def inputs(self, batch: Ints, padding: int, device: torch.device) -> dict[str, torch.Tensor]:
        return _inputs(self._sources, batch, padding, device)

    def generated(self, sequences: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Without the start token of the decoder."""
        return sequences[:, 1:]

    def limits(self, new_tokens: int, positions: int | None) -> Ints:
        return np.full(len(self.references), min(new_tokens, (positions or sys.maxsize) - 1))


def next_tokens(
    model: Any, tokens: TokenRows, labels: TokenRows, *, batch: Ints, padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a decoder on rows of ``tokens``; arguments and result as of `Prompts.score`."""
    inputs, mask = (tensor.to(device) for tensor in padded(tokens, batch, padding))
    targets = padded(labels, batch, IGNORED_LABEL)[0].to(device)[:, 1:]
    return model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1], targets


def _inputs(
    rows: TokenRows, batch: Ints, padding: int, device: torch.device, left: bool = False
) -> dict[str, torch.Tensor]:
    tokens, mask = (tensor.to(device) for tensor in padded(rows, batch, padding, left=left))
    return {"input_ids": tokens, "attention_mask": mask}


def _learned(labels: TokenRows, first: int) -> Ints:
    """Number of tokens with a loss in each row, from ``first`` on."""
    counts = (int((labels[row][first:] != IGNORED_LABEL).sum()) for row in range(len(labels)))
    return np.fromiter(counts, np.int64, len(labels))
