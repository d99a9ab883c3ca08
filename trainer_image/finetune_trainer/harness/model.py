"""A model of this project as lm-eval runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.models.huggingface import HFLM

from finetune_trainer.modelling.batching import BatchLimits

OnRequests = Callable[[int], None]
"""Called with the number of requests that are done; with 0 as a sign of life."""
_HEARTBEAT_SECONDS = 5.0


class Model(HFLM):  # type: ignore[misc]
    """Answers the requests of tasks in batches of limited size, and reports how many are done."""

    def __init__(
        self, model: Any, tokenizer: Any, *, backend: str, limits: BatchLimits, on_requests: OnRequests
    ) -> None:
        """
        Args:
            model: A model of transformers or PEFT, on its device.
            tokenizer: Its tokenizer.
            backend: ``causal`` or ``seq2seq``.
            limits: Maximum size of a batch.
            on_requests: Called after requests, and while a long one runs.
        """
        # In half precision, the sum of the log-probabilities of an answer would lose most of its digits.
        super().__init__(pretrained=model, tokenizer=tokenizer, backend=backend, batch_size=1, softmax_dtype="float32")
        self._limits = limits
        self.cache_hook = _Counter(on_requests)

    def _loglikelihood_tokens(self, requests: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        self._fit(len(context) + len(answer) for _, context, answer in requests)
        return super()._loglikelihood_tokens(requests, *arguments, **named)

    def loglikelihood_rolling(self, requests: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        self._fit([self.max_length])
        return super().loglikelihood_rolling(requests, *arguments, **named)

    def generate_until(self, requests: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        self._fit([self.max_length])
        return super().generate_until(requests, *arguments, **named)

    def _model_generate(self, context: Any, max_length: int, stop: Sequence[str], **settings: Any) -> Any:
        if self.backend == "seq2seq":
            # lm-eval adds the tokens of the longest prompt of the batch to the limit of the task, also where the answer
            # does not follow the prompt. The answer begins with a start token.
            max_length += 1 - context.shape[1]
        return super()._model_generate(context, max_length, stop, **settings)

    def _fit(self, lengths: Iterator[int] | Sequence[int]) -> None:
        """Choose the number of requests of a batch from the longest."""
        longest = min(max(lengths), self.max_length)
        self.batch_size_per_gpu = max(1, min(self._limits.examples, self._limits.tokens // longest))


class _Counter:
    """Takes the place of lm-eval's cache, which gets each answer."""

    def __init__(self, on_requests: OnRequests) -> None:
        self._on_requests = on_requests

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        self._on_requests(1)


@contextmanager
def alive(model: Any, on_requests: OnRequests) -> Iterator[None]:
    """Report every few seconds, after a step of ``model``, that it is alive."""
    last = time.monotonic()

    def report(*_: Any) -> None:
        nonlocal last
        if time.monotonic() - last > _HEARTBEAT_SECONDS:
            last = time.monotonic()
            on_requests(0)

    handle = model.register_forward_hook(report)
    try:
        yield
    finally:
        handle.remove()
