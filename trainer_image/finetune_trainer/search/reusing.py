"""Losses of labels with what they have in common computed once: the cache of keys and values, or the encoder."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutput

from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.evaluate.generation import LIMITS
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.evaluate.token_scores import LOGITS_AT_ONCE
from finetune_trainer.exceptions import first_line
from finetune_trainer.modelling.batching import BatchLimits, TokenRows, each_batch, length_sorted, padded
from finetune_trainer.modelling.loading import check_finite
from finetune_trainer.modelling.shift import shift_of
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.search.asked import OnExamples

_log = logging.getLogger(__name__)

_TOLERANCES = {torch.float32: 1e-4}
_TOLERANCE = 0.1
"""Largest difference of a mean loss, in nats, from the one without reuse; in types other than FP32 sums depend on the
size of a batch."""
_SHARED = 8
"""Tokens from which it is worth to compute the common beginning of prompts once."""


class Reuse(Protocol):
    """Computes losses of labels; see `finetune_trainer.search.ranking.Ranker.losses`."""

    def losses(self, prompts: TokenRows, endings: Sequence[Sequence[int]], on_examples: OnExamples) -> NDArray[Any]: ...


def reuse_of(
    inputs: EvaluationInputs,
    model: Any,
    prompts: TokenRows,
    endings: Sequence[Sequence[int]],
    exact: NDArray[Any],
    *,
    seq2seq: bool,
) -> Reuse | None:
    """How ``model`` reuses what labels have in common; None if it cannot, or gives other losses then.

    Args:
        inputs: Inputs of the evaluation.
        model: The model.
        prompts: Prompts to try it with.
        endings: The tokens of each label.
        exact: Their losses without reuse, of shape (prompts, endings).
        seq2seq: Whether the model has an encoder and a decoder.
    """
    if not inputs.data.handling.batching:
        return None  # Its outputs depend on padding.
    reuse: Reuse = EncoderReuse(inputs, model) if seq2seq else CacheReuse(inputs, model)
    try:
        # Twice the same prompt, so that a common beginning is tried as well.
        found = reuse.losses(prompts.take(np.repeat(np.arange(len(prompts)), 2)), endings, lambda _: None)
    except Exception as error:  # A model without such a cache may fail in any way.
        _log.info("labels are ranked one by one, because the model cannot share a prompt: %s", first_line(error))
        return None
    difference = float(np.abs(found - exact.repeat(2, axis=0)).max())
    if difference > _TOLERANCES.get(inputs.hardware.dtype, _TOLERANCE):
        _log.info("labels are ranked one by one, because a shared prompt changes losses by %.2g", difference)
        return None
    return reuse


class _Labels:
    """The tokens of labels as tensors, in parts."""

    def __init__(self, endings: Sequence[Sequence[int]], device: torch.device) -> None:
        values = np.concatenate([np.asarray(ending, np.int32) for ending in endings])
        lengths: Ints = np.asarray([len(ending) for ending in endings], np.int64)
        self._rows = TokenRows(values, np.concatenate([[0], np.cumsum(lengths)]))
        self._device = device
        self.lengths = lengths

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    def parts(self, at_once: int) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Indices of labels, and their tokens of shape (labels, tokens); `IGNORED_LABEL` follows them."""
        for first in range(0, len(self.lengths), at_once):
            chosen = np.arange(first, min(first + at_once, len(self.lengths)))
            yield chosen, padded(self._rows, chosen, IGNORED_LABEL)[0].to(self._device)


class _Batched:
    """What both kinds of models have in common."""

    def __init__(self, inputs: EvaluationInputs, model: Any) -> None:
        self._inputs = inputs
        self._model = model
        self._device = inputs.hardware.device
        limits = LIMITS[self._device.type]
        self._most_logits: int = LOGITS_AT_ONCE // model.config.get_text_config().vocab_size
        self._limits = BatchLimits(limits.examples, limits.tokens)

    def _labels_at_once(self, prompts: int, length: int, labels: _Labels) -> int:
        """Labels that fit into a batch with so many prompts of a length."""
        fitting = self._limits.tokens // (prompts * (length + labels.longest))
        return max(1, min(fitting, self._most_logits // (prompts * labels.longest)))

    def _filled(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.masked_fill(tokens == IGNORED_LABEL, self._inputs.data.padding)


class CacheReuse(_Batched):
    """For decoders with a cache that grows with the text.

    Prompts of one length share a batch, so that no padding stands before a label, where it would move the windows of
    sliding attention. Their common beginning, such as the examples, is computed once.
    """

    def __init__(self, inputs: EvaluationInputs, model: Any) -> None:
        super().__init__(inputs, model)
        known = inspect.signature(model.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def losses(self, prompts: TokenRows, endings: Sequence[Sequence[int]], on_examples: OnExamples) -> NDArray[Any]:
        labels = _Labels(endings, self._device)
        found = np.zeros((len(prompts), len(endings)))
        shared = _common(prompts)
        with torch.inference_mode(), self._inputs.hardware.autocast():
            start = self._start(prompts[0][:shared]) if shared >= _SHARED and len(prompts) > 1 else None
        done = shared if start else 0

        def work(batch: Ints) -> None:
            rows = np.stack([prompts[int(index)][done:] for index in batch]).astype(np.int64)
            with torch.inference_mode(), self._inputs.hardware.autocast():
                sums = self._sums(start, torch.from_numpy(rows).to(self._device), labels)
            check_finite(sums, "baseline", "loss")
            found[batch] = sums.cpu().numpy() / labels.lengths
            on_examples(0)

        each_batch(self._batches(prompts.lengths), work)
        return found

    def _batches(self, lengths: Ints) -> Iterator[Ints]:
        """Prompts of the same length, the longest first."""
        logits = self._most_logits if not self._last_only else self._limits.tokens
        limits = BatchLimits(self._limits.examples, min(self._limits.tokens, logits))
        for length in np.unique(lengths)[::-1].tolist():
            chosen = np.flatnonzero(lengths == length)
            yield from (chosen[batch] for batch in length_sorted(lengths[chosen], limits))

    def _start(self, tokens: NDArray[np.int32]) -> Any:
        """The cache of the common beginning."""
        row = torch.from_numpy(tokens.astype(np.int64))[None].to(self._device)
        return self._read(row, DynamicCache(config=self._model.config), 0, **self._last_only).past_key_values

    def _read(self, tokens: torch.Tensor, cache: Any, known: int, **settings: Any) -> Any:
        """The output for ``tokens`` behind the ``known`` ones in ``cache``; `IGNORED_LABEL` is padding."""
        before = tokens.new_ones((len(tokens), known))
        mask = torch.cat([before, (tokens != IGNORED_LABEL).long()], dim=1)
        return self._model(
            input_ids=self._filled(tokens), attention_mask=mask, past_key_values=cache, use_cache=True, **settings
        )

    def _sums(self, start: Any, prompts: torch.Tensor, labels: _Labels) -> torch.Tensor:
        """The sum of the losses of each label behind each prompt, of shape (prompts, labels)."""
        cache = DynamicCache(config=self._model.config) if start is None else _repeated(start, len(prompts))
        known = cache.get_seq_length()
        output = self._read(prompts, cache, known, **self._last_only)
        known += prompts.shape[1]
        first = output.logits[:, -1].float().log_softmax(dim=-1)
        sums = []
        for _, tokens in labels.parts(self._labels_at_once(len(prompts), known, labels)):
            of_first = -first[:, tokens[:, 0]]
            sums.append(of_first + self._of_rest(output.past_key_values, tokens, len(prompts), known))
        return torch.cat(sums, dim=1)

    def _of_rest(self, cache: Any, tokens: torch.Tensor, prompts: int, known: int) -> torch.Tensor | float:
        """The sum of the losses of the second and the further tokens of labels, of shape (prompts, labels)."""
        if tokens.shape[1] == 1:
            return 0.0
        repeated = tokens.repeat(prompts, 1)
        logits = self._read(repeated[:, :-1], _repeated(cache, len(tokens)), known).logits
        return _losses(logits, repeated[:, 1:]).reshape(prompts, -1)


class EncoderReuse(_Batched):
    """For models with an encoder and a decoder: the encoder reads each prompt once."""

    def losses(self, prompts: TokenRows, endings: Sequence[Sequence[int]], on_examples: OnExamples) -> NDArray[Any]:
        labels, shift = _Labels(endings, self._device), shift_of(self._model)
        found = np.zeros((len(prompts), len(endings)))

        def work(batch: Ints) -> None:
            sources, mask = (one.to(self._device) for one in padded(prompts, batch, self._inputs.data.padding))
            with torch.inference_mode(), self._inputs.hardware.autocast():
                hidden = self._model.get_encoder()(input_ids=sources, attention_mask=mask).last_hidden_state
                for chosen, tokens in labels.parts(self._labels_at_once(len(batch), sources.shape[1], labels)):
                    repeated = tokens.repeat(len(batch), 1)
                    logits = self._model(
                        encoder_outputs=BaseModelOutput(hidden.repeat_interleave(len(tokens), dim=0)),
                        attention_mask=mask.repeat_interleave(len(tokens), dim=0),
                        decoder_input_ids=shift(repeated),
                        use_cache=False,
                    ).logits
                    sums = _losses(logits, repeated).reshape(len(batch), -1)
                    check_finite(sums, "baseline", "loss")
                    found[np.ix_(batch, chosen)] = sums.cpu().numpy() / labels.lengths[chosen]
            on_examples(0)

        each_batch(length_sorted(prompts.lengths, self._limits), work)
        return found


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum of the losses of each row of ``targets``, of shape (rows,); `IGNORED_LABEL` has none."""
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    return losses.reshape(targets.shape).sum(dim=1)


def _repeated(cache: Any, times: int) -> Any:
    """A cache with each row of ``cache`` ``times`` times, one after the other.

    Raises:
        TypeError: It has layers of another kind, such as the states of a recurrent model.
    """
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        raise TypeError(f"its cache has layers of another kind ({type(cache.layers[0]).__name__})")
    repeated = copy.copy(cache)
    # Their tensors are replaced and never changed, so that a shallow copy is enough.
    repeated.layers = [copy.copy(layer) for layer in cache.layers]
    repeated.batch_repeat_interleave(times)
    return repeated


def _common(prompts: TokenRows) -> int:
    """Tokens that all prompts begin with, at most all but one of the shortest."""
    most = int(prompts.lengths.min()) - 1
    rows = np.stack([prompts[index][:most] for index in range(len(prompts))])
    same = (rows == rows[0]).all(axis=0)
    return most if same.all() else int(same.argmin())
