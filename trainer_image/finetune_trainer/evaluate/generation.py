"""Generates answers to prompts, in batches sorted by length."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from finetune_api.spec.outcome import GenerationSpec
from finetune_trainer.evaluate.decoding import decoding
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.evaluate.prompts import Prompts
from finetune_trainer.modelling.batching import BatchLimits, each_batch, length_sorted
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.prepared import DataReport

LIMITS = {"cpu": BatchLimits(examples=16, tokens=4096), "cuda": BatchLimits(examples=64, tokens=131072)}
_HEARTBEAT_SECONDS = 5.0

OnExamples = Callable[[int], None]
"""Called with the number of examples that are done; with 0 every few seconds, as a sign of life."""


class Generator:
    """Generates with the settings of a job."""

    def __init__(
        self, data: DataReport, settings: GenerationSpec, tokenizer: PreTrainedTokenizerBase, hardware: Hardware
    ) -> None:
        self._data = data
        self._settings = settings
        self._tokenizer = tokenizer
        self._hardware = hardware

    def answers(self, model: Any, prompts: Prompts, on_examples: OnExamples) -> list[str]:
        """The answers of ``model``, without the token that ends them and other special tokens."""
        texts = [""] * len(prompts.prompt_lengths)
        for limit, batches in self.batches(prompts, LIMITS[self._hardware.device.type]):

            def work(batch: Ints, limit: int = limit) -> None:
                with torch.inference_mode():
                    answers = self.answers_of(model, prompts, batch, limit, on_examples)
                for index, answer in zip(batch, answers, strict=True):
                    texts[int(index)] = answer
                on_examples(len(batch))

            each_batch(batches, work)
        return texts

    def batches(self, prompts: Prompts, most: BatchLimits) -> list[tuple[int, list[Ints]]]:
        """Batches of prompts of similar length, by the number of tokens that may be generated for them."""
        limits = prompts.limits(self._settings.max_new_tokens, self._data.model.max_positions)
        at_once = most.unless_alone(self._data.handling.batched_generation)
        found = []
        for limit in np.unique(limits):
            chosen = np.flatnonzero(limits == limit)
            batches = length_sorted(prompts.prompt_lengths[chosen] + limit, at_once)
            found.append((int(limit), [chosen[batch] for batch in batches]))
        return found

    def answers_of(self, model: Any, prompts: Prompts, batch: Ints, limit: int, on_examples: OnExamples) -> list[str]:
        """The answers of ``model`` to the prompts of a batch, each of at most ``limit`` tokens."""
        given = prompts.inputs(batch, self._data.padding, self._hardware.device)
        criteria = StoppingCriteriaList([_Heartbeat(on_examples)])
        with decoding(model, self._config(limit)), self._hardware.autocast():
            sequences = model.generate(**given, stopping_criteria=criteria)
        rows = prompts.generated(sequences, given).cpu().numpy()
        answers = [until_end(row, self._data.end_tokens).tolist() for row in rows]
        # transformers would otherwise remove spaces before punctuation if the tokenizer asks for it.
        decoded: list[str] = self._tokenizer.batch_decode(
            answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def _config(self, new_tokens: int) -> GenerationConfig:
        configuration: Any = GenerationConfig
        config: GenerationConfig = configuration(
            do_sample=False,
            num_beams=self._settings.beams,
            max_new_tokens=new_tokens,
            eos_token_id=list(self._data.end_tokens) or None,
            pad_token_id=self._data.padding,
            **self._data.generation,
        )
        return config


def until_end(tokens: Ints, ends: Sequence[int]) -> Ints:
    """``tokens`` before the first of ``ends``."""
    found = np.flatnonzero(np.isin(tokens, ends))
    return tokens[: found[0]] if len(found) else tokens


class _Heartbeat(StoppingCriteria):
    """Never stops generation; reports every few seconds that it is alive."""

    def __init__(self, on_examples: OnExamples) -> None:
        self._on_examples = on_examples
        self._last = time.monotonic()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        if time.monotonic() - self._last > _HEARTBEAT_SECONDS:
            self._last = time.monotonic()
            self._on_examples(0)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
