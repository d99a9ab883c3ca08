"""Generates answers to prompts, in batches sorted by length."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from finetune_api.spec.outcome import GenerationSpec
from finetune_trainer.evaluate.decoding import decoding
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.evaluate.prompts import Prompts
from finetune_trainer.evaluate.sampling import DEFAULT_TEMPERATURE, Sampler, draws
from finetune_trainer.modelling.batching import BatchLimits, each_batch, length_sorted
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.tokenizer import Decode
from finetune_trainer.prepared import DataReport

LIMITS = {"cpu": BatchLimits(examples=16, tokens=4096), "cuda": BatchLimits(examples=64, tokens=131072)}
_HEARTBEAT_SECONDS = 5.0

OnExamples = Callable[[int], None]
"""Called with the number of examples that are done; with 0 every few seconds, as a sign of life."""


@dataclass(frozen=True)
class Generated:
    """What a model has generated for a prompt."""

    text: str
    """Without the token that ends it and other special tokens."""
    tokens: int
    """Number of its tokens, the one that ends it included."""
    ended: bool
    """Whether a token ends it; otherwise it is cut at the limit."""


class Generator:
    """Generates with the settings of a job."""

    def __init__(self, data: DataReport, settings: GenerationSpec, decode: Decode, hardware: Hardware) -> None:
        self._data = data
        self._settings = settings
        self._decode = decode
        self._hardware = hardware

    def samples(self, model: Any, prompts: Prompts, seed: int, on_answers: OnExamples) -> list[list[str]]:
        """The answers of ``model`` to each prompt, as many as the settings say, as of `answers`.

        Several are drawn. What is drawn for a prompt depends on ``seed`` and its index, and not on its batch.
        """
        count = self._settings.samples
        drawn = [self.answers(model, prompts, on_answers, (seed, one) if count > 1 else None) for one in range(count)]
        return [list(answers) for answers in zip(*drawn, strict=True)]

    def answers(
        self, model: Any, prompts: Prompts, on_examples: OnExamples, seeds: tuple[int, int] | None = None
    ) -> list[str]:
        """The answers of ``model``, without the token that ends them and other special tokens.

        Args:
            model: The model.
            prompts: The prompts.
            on_examples: Called while it works.
            seeds: What the answers are drawn with; None for greedy answers or those of a beam search.
        """
        texts = [""] * len(prompts.prompt_lengths)
        for limit, batches in self.batches(prompts, LIMITS[self._hardware.device.type]):

            def work(batch: Ints, limit: int = limit) -> None:
                with torch.inference_mode():
                    found = self.generated(model, prompts, batch, limit, on_examples, seeds=seeds)
                for index, one in zip(batch, found, strict=True):
                    texts[int(index)] = one.text
                on_examples(len(batch))

            each_batch(batches, work)
        return texts

    def batches(self, prompts: Prompts, most: BatchLimits) -> list[tuple[int, list[Ints]]]:
        """Batches of prompts of similar length, by the number of tokens that may be generated for them."""
        limits, lengths = prompts.limits(self._settings.max_new_tokens, self._data.positions), prompts.prompt_lengths
        # Padding would stand between the virtual tokens and a prompt that is shorter than its neighbours.
        equal = self._data.virtual_tokens > 0
        handling = self._data.handling
        at_once = most.unless_alone(handling.batching if equal else handling.batched_generation)
        kinds = np.stack([limits, lengths if equal else np.zeros_like(lengths)], axis=1)
        found = []
        for limit, length in np.unique(kinds, axis=0).tolist():
            chosen = np.flatnonzero((kinds == (limit, length)).all(axis=1))
            batches = length_sorted(lengths[chosen] + limit, at_once)
            found.append((limit, [chosen[batch] for batch in batches]))
        return found

    def generated(
        self,
        model: Any,
        prompts: Prompts,
        batch: Ints,
        limit: int,
        on_examples: OnExamples,
        *,
        seeds: tuple[int, int] | None = None,
    ) -> list[Generated]:
        """What ``model`` generates for the prompts of a batch, at most ``limit`` tokens each; otherwise `answers`."""
        given = prompts.inputs(batch, self._data.padding, self._hardware.device)
        criteria = StoppingCriteriaList([_Heartbeat(on_examples)])
        chosen = (
            {} if seeds is None else {"logits_processor": LogitsProcessorList([self._sampler(batch, limit, seeds)])}
        )
        with decoding(model, self._config(limit)), self._hardware.autocast():
            sequences = model.generate(**given, stopping_criteria=criteria, **chosen)
        rows = prompts.generated(sequences, given).cpu().numpy()
        answers = [until_end(row, self._data.end_tokens) for row in rows]
        texts = self._decode([answer.tolist() for answer in answers])
        return [
            Generated(text, min(len(answer) + 1, len(row)), len(answer) < len(row))
            for text, answer, row in zip(texts, answers, rows, strict=True)
        ]

    def _sampler(self, batch: Ints, limit: int, seeds: tuple[int, int]) -> Sampler:
        temperature = self._settings.temperature or DEFAULT_TEMPERATURE
        return Sampler(draws(seeds, batch, limit, self._hardware.device), temperature)

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

    def __deepcopy__(self, memo: object) -> _Heartbeat:
        """Itself: PEFT copies the arguments of generate, and the copy would count examples elsewhere."""
        return self

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        if time.monotonic() - self._last > _HEARTBEAT_SECONDS:
            self._last = time.monotonic()
            self._on_examples(0)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
