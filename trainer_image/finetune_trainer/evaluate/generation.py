"""Comparison for tasks that generate text: the tuned model and the base model, with the same prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from finetune_api.evaluation import BaselineKind, MetricResult
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Metric
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter, metric_result
from finetune_trainer.evaluate.intervals import ratio_interval
from finetune_trainer.evaluate.metrics import ANSWER_METRICS, TEACHER_FORCED, Floats, Ints, ratio
from finetune_trainer.modelling.batching import BatchLimits, TokenRows, each_batch, length_sorted, padded
from finetune_trainer.modelling.loading import check_finite, check_vocabulary
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer, padding_token
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.splits import open_split

_LIMITS = {"cpu": BatchLimits(examples=16, tokens=4096), "cuda": BatchLimits(examples=64, tokens=131072)}
_LOGITS_AT_ONCE = 1 << 28  # Elements, 1 GiB as float32.
_HEARTBEAT_SECONDS = 5.0
_TAIL = 3  # Tokens: a template may end a turn with an end token and a line break.


@dataclass(frozen=True)
class Prompts:
    """The tokens of the test split."""

    tokens: TokenRows
    labels: TokenRows
    prompt_lengths: Ints
    references: list[str]

    @classmethod
    def of_table(cls, table: pa.Table) -> Prompts:
        return cls(
            TokenRows.of_column(table["input_ids"]),
            TokenRows.of_column(table["labels"]),
            table["prompt_length"].to_numpy().astype(np.int64),
            table["reference"].to_pylist(),
        )


@dataclass(frozen=True)
class Answers:
    """Results of a model on the test split; arrays have shape (examples,)."""

    losses: Floats
    """Mean loss of the answer tokens, in nats per token."""
    hits: Floats
    """Share of answer tokens that have the highest logit."""
    texts: list[str] | None
    """Generated answers; None when no metric needs them."""


def compare(inputs: EvaluationInputs) -> Comparison:
    """Run baseline and tuned model on the test split.

    Raises:
        StageFailure: BadConfiguration (the model does not fit the data), BadData (no answer tokens in test), Diverged
            (a loss that is not finite), OutOfMemory.
    """
    table = open_split(inputs.prepared, SPLIT)
    prompts = Prompts.of_table(table)
    learned = _learned_tokens(prompts.labels)
    tokenizer = load_prepared_tokenizer(inputs.prepared)
    answers: dict[str, Answers] = {}
    ends: list[int] = []
    for name, model in inputs.method.baseline_and_tuned(inputs.load, inputs.base, inputs.trained):
        check_vocabulary(model, prompts.tokens)
        answers[name] = _Runner(inputs, prompts, tokenizer, name, model).run()
        ends = end_tokens(tokenizer, prompts.labels, model)
        del model  # Frees its memory for the next model.
    baseline, tuned = answers["baseline"], answers["tuned"]

    scores = {metric: _scores(metric, prompts, learned, baseline, tuned) for metric in inputs.spec.metrics}
    seed = inputs.spec.training.seed
    results = tuple(_result(metric, *score, seed=seed) for metric, score in scores.items())
    details: dict[str, Any] = {"endTokens": ends}
    if tuned.texts is not None:
        details |= {"decoding": "greedy", "maxNewTokens": inputs.spec.evaluation.generation.max_new_tokens}
    predictions = [
        {
            "source": source,
            "prompt": prompt,
            "reference": prompts.references[row],
            "baseline": baseline.texts[row] if baseline.texts else None,
            "tuned": tuned.texts[row] if tuned.texts else None,
            "scores": {
                str(metric): {"baseline": float(of_baseline[row]), "tuned": float(of_tuned[row])}
                for metric, (of_baseline, of_tuned, _) in scores.items()
            },
        }
        for row, (source, prompt) in enumerate(
            zip(table["source"].to_pylist(), table["prompt"].to_pylist(), strict=True)
        )
    ]
    return Comparison(BaselineKind.BASE_MODEL, details, results, predictions)


def _learned_tokens(labels: TokenRows) -> Ints:
    """Number of tokens with a loss in each example; the first token has none, because no token predicts it."""
    counted = np.array([int((labels[row][1:] != IGNORED_LABEL).sum()) for row in range(len(labels))], dtype=np.int64)
    if not counted.any():
        raise StageFailure(Reason.BAD_DATA, "The test split contains no answer tokens; check dataset.columns")
    return counted


def _scores(
    metric: Metric, prompts: Prompts, learned: Ints, baseline: Answers, tuned: Answers
) -> tuple[Floats, Floats, Floats]:
    """Baseline values, tuned values and weights, each of shape (examples,)."""
    if metric is Metric.LOSS:
        return baseline.losses, tuned.losses, learned.astype(np.float64)
    if metric is Metric.TOKEN_ACCURACY:
        return baseline.hits, tuned.hits, learned.astype(np.float64)
    of_baseline, of_tuned = (
        np.array([ANSWER_METRICS[metric](*pair) for pair in zip(answers.texts or (), prompts.references, strict=True)])
        for answers in (baseline, tuned)
    )
    return of_baseline, of_tuned, np.ones(len(prompts.references))


def _result(metric: Metric, baseline: Floats, tuned: Floats, weights: Floats, seed: int) -> MetricResult:
    interval = ratio_interval(baseline, tuned, weights, seed=seed)
    return metric_result(metric, ratio(baseline, weights), ratio(tuned, weights), interval)


def end_tokens(tokenizer: PreTrainedTokenizerBase, labels: TokenRows, model: Any) -> list[int]:
    """Token ids that end an answer: the end tokens of tokenizer and model, and special tokens that end most answers.

    The latter are end-of-turn tokens of the chat template, which the tokenizer may not declare as end tokens.
    """
    of_model = model.generation_config.eos_token_id if model.generation_config else None
    ends = set(of_model if isinstance(of_model, list) else [of_model])
    ends.add(tokenizer.eos_token_id)
    special = np.array(sorted({*tokenizer.all_special_ids, *_special_additions(tokenizer)}), dtype=np.int64)
    closing: dict[int, int] = {}
    for row in range(len(labels)):
        tail = labels[row][labels[row] != IGNORED_LABEL][-_TAIL:]
        for token in np.intersect1d(tail, special):
            closing[int(token)] = closing.get(int(token), 0) + 1
    ends.update(token for token, count in closing.items() if 2 * count >= len(labels))
    return sorted(token for token in ends if token is not None)


def _special_additions(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}


class _Heartbeat(StoppingCriteria):
    """Never stops generation; reports every few seconds that it is alive."""

    def __init__(self, counter: ExampleCounter) -> None:
        self._counter = counter
        self._last = time.monotonic()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        if time.monotonic() - self._last > _HEARTBEAT_SECONDS:
            self._last = time.monotonic()
            self._counter.add(0)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Runner:
    """Runs one model on the test split."""

    def __init__(
        self, inputs: EvaluationInputs, prompts: Prompts, tokenizer: PreTrainedTokenizerBase, name: str, model: Any
    ) -> None:
        self._inputs = inputs
        self._hardware: Hardware = inputs.hardware
        self._limits = _LIMITS[inputs.hardware.device.type]
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._padding = padding_token(tokenizer)
        self._name = name
        self._model = model

    def run(self) -> Answers:
        wanted = set(self._inputs.spec.metrics)
        examples = len(self._prompts.tokens)
        losses, hits = np.zeros(examples), np.zeros(examples)
        if wanted.intersection(TEACHER_FORCED):
            losses, hits = self._score()
        texts = self._generate() if wanted.intersection(ANSWER_METRICS) else None
        return Answers(losses, hits, texts)

    def _counter(self, activity: str) -> ExampleCounter:
        return ExampleCounter(self._inputs.reporter, f"{activity} ({self._name})", len(self._prompts.tokens))

    def _score(self) -> tuple[Floats, Floats]:
        """Teacher-forced loss and token accuracy of each example."""
        prompts, counter = self._prompts, self._counter("measuring the loss")
        losses, hits = np.zeros(len(prompts.tokens)), np.zeros(len(prompts.tokens))
        vocabulary = self._model.config.get_text_config().vocab_size
        limits = BatchLimits(self._limits.examples, min(self._limits.tokens, _LOGITS_AT_ONCE // vocabulary))

        def work(batch: Ints) -> None:
            device = self._hardware.device
            tokens, mask = (tensor.to(device) for tensor in padded(prompts.tokens, batch, self._padding))
            targets = padded(prompts.labels, batch, IGNORED_LABEL)[0].to(device)[:, 1:]
            with torch.inference_mode(), self._hardware.autocast():
                logits = self._model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1]
            learned = targets != IGNORED_LABEL
            chosen, wanted = logits[learned].float(), targets[learned]
            counts = learned.sum(dim=1).clamp(min=1).cpu().numpy()
            for values, result in (
                (torch.nn.functional.cross_entropy(chosen, wanted, reduction="none"), losses),
                ((chosen.argmax(dim=-1) == wanted).float(), hits),
            ):
                check_finite(values, self._name, "loss")
                sums = torch.zeros(learned.shape, dtype=torch.float64, device=device)
                sums[learned] = values.double()
                result[batch] = sums.sum(dim=1).cpu().numpy() / counts
            counter.add(len(batch))

        each_batch(length_sorted(prompts.tokens.lengths, limits), work)
        return losses, hits

    def _generate(self) -> list[str]:
        """Generated answers, without special tokens and surrounding white space."""
        counter = self._counter("generating answers")
        new_tokens = self._inputs.spec.evaluation.generation.max_new_tokens
        rows = self._prompts.tokens.heads(self._prompts.prompt_lengths)
        texts = [""] * len(rows)

        def work(batch: Ints) -> None:
            tokens, mask = (
                tensor.to(self._hardware.device) for tensor in padded(rows, batch, self._padding, left=True)
            )
            with torch.inference_mode(), self._hardware.autocast():
                sequences = self._model.generate(
                    input_ids=tokens,
                    attention_mask=mask,
                    stopping_criteria=StoppingCriteriaList([_Heartbeat(counter)]),
                )
            answers = self._tokenizer.batch_decode(sequences[:, tokens.shape[1] :], skip_special_tokens=True)
            for index, answer in zip(batch, answers, strict=True):
                texts[int(index)] = answer.strip()
            counter.add(len(batch))

        with self._greedy(new_tokens):
            each_batch(length_sorted(rows.lengths + new_tokens, self._limits), work)
        return texts

    @contextmanager
    def _greedy(self, new_tokens: int) -> Iterator[None]:
        """Replace the generation config of the model, so that its sampling settings and penalties have no effect."""
        own = self._model.generation_config
        ends = end_tokens(self._tokenizer, self._prompts.labels, self._model)
        configuration: Any = GenerationConfig
        self._model.generation_config = configuration(
            do_sample=False,
            num_beams=1,
            max_new_tokens=new_tokens,
            eos_token_id=ends or None,
            pad_token_id=self._padding,
        )
        try:
            yield
        finally:
            self._model.generation_config = own
