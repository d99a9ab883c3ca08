"""Comparison for tasks that generate text: the tuned model and the base model, with the same prompts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
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
from finetune_trainer.evaluate.corpus_metrics import CORPUS_METRICS
from finetune_trainer.evaluate.intervals import corpus_interval, ratio_interval
from finetune_trainer.evaluate.metrics import ANSWER_METRICS, TEACHER_FORCED, Floats, Ints, ratio
from finetune_trainer.modelling.batching import BatchLimits, TokenRows, each_batch, length_sorted, padded
from finetune_trainer.modelling.loading import check_finite, check_vocabulary
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer, load_saved_tokenizer
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.splits import open_split

_LIMITS = {"cpu": BatchLimits(examples=16, tokens=4096), "cuda": BatchLimits(examples=64, tokens=131072)}
_LOGITS_AT_ONCE = 1 << 28  # Elements, 1 GiB as float32.
_HEARTBEAT_SECONDS = 5.0


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
    for name, model in inputs.method.baseline_and_tuned(inputs.load, inputs.base, inputs.trained):
        check_vocabulary(model, prompts.tokens)
        answers[name] = _Runner(inputs, prompts, tokenizer, name, model).run()
        del model  # Frees its memory for the next model.
    baseline, tuned = answers["baseline"], answers["tuned"]

    scores = {metric: _scores(metric, prompts, learned, baseline, tuned) for metric in inputs.spec.metrics}
    seed = inputs.spec.training.seed
    results = tuple(_result(metric, scores[metric], prompts, (baseline, tuned), seed) for metric in scores)
    details = _details(inputs, prompts) if tuned.texts is not None else {}
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


def generated(inputs: EvaluationInputs, prompts: TokenRows) -> list[str]:
    """The answers of the tuned model to ``prompts``, as in `compare`; ``inputs.trained`` is the published artifact.

    Raises:
        StageFailure: As `compare`.
    """
    model = inputs.method.tuned(inputs.load, inputs.base, inputs.trained)
    check_vocabulary(model, prompts)
    tokenizer = load_saved_tokenizer(inputs.trained)
    rows = Prompts(prompts, labels=prompts, prompt_lengths=prompts.lengths, references=[])
    return _Runner(inputs, rows, tokenizer, "tuned", model).generate()


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


def _result(
    metric: Metric, scores: tuple[Floats, Floats, Floats], prompts: Prompts, answers: tuple[Answers, Answers], seed: int
) -> MetricResult:
    """The result of a metric; ``answers`` are those of baseline and tuned model."""
    of_baseline, of_tuned, weights = scores
    corpus = CORPUS_METRICS.get(metric)
    if corpus is None:
        interval = ratio_interval(of_baseline, of_tuned, weights, seed=seed)
        return metric_result(metric, ratio(of_baseline, weights), ratio(of_tuned, weights), interval)
    before, after = (corpus.statistics(of_model.texts or (), prompts.references) for of_model in answers)
    interval = corpus_interval(corpus, before, after, seed=seed)
    return metric_result(metric, corpus.score(before.sum(axis=0)), corpus.score(after.sum(axis=0)), interval)


def _details(inputs: EvaluationInputs, prompts: Prompts) -> dict[str, Any]:
    new_tokens = inputs.spec.evaluation.generation.max_new_tokens
    limits = new_token_limits(prompts.prompt_lengths, new_tokens, inputs.data.model.max_positions)
    limited = int((limits < new_tokens).sum())
    signatures = {
        str(metric): corpus.signature for metric, corpus in CORPUS_METRICS.items() if metric in inputs.spec.metrics
    }
    return {
        "decoding": "greedy",
        "maxNewTokens": new_tokens,
        "endTokens": list(inputs.data.end_tokens),
        **({"limitedAnswers": limited} if limited else {}),
        **({"signatures": signatures} if signatures else {}),
    }


def new_token_limits(prompt_lengths: Ints, new_tokens: int, positions: int | None) -> Ints:
    """The largest number of new tokens for each prompt, so that prompt and answer fit into the model's positions.

    Args:
        prompt_lengths: Tokens of each prompt, of shape (examples,).
        new_tokens: evaluation.generation.maxNewTokens.
        positions: Longest sequence that the model supports; None if unknown.
    """
    return np.minimum(new_tokens, (positions or sys.maxsize) - prompt_lengths)


def until_end(tokens: Ints, ends: Sequence[int]) -> Ints:
    """``tokens`` before the first of ``ends``."""
    found = np.flatnonzero(np.isin(tokens, ends))
    return tokens[: found[0]] if len(found) else tokens


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
        self._padding = inputs.data.padding
        self._name = name
        self._model = model

    def run(self) -> Answers:
        wanted = set(self._inputs.spec.metrics)
        examples = len(self._prompts.tokens)
        losses, hits = np.zeros(examples), np.zeros(examples)
        if wanted.intersection(TEACHER_FORCED):
            losses, hits = self._score()
        texts = self.generate() if wanted.intersection(ANSWER_METRICS) else None
        return Answers(losses, hits, texts)

    def _counter(self, activity: str) -> ExampleCounter:
        return ExampleCounter(self._inputs.reporter, f"{activity} ({self._name})", len(self._prompts.tokens))

    def _score(self) -> tuple[Floats, Floats]:
        """Teacher-forced loss and token accuracy of each example."""
        prompts, counter = self._prompts, self._counter("measuring the loss")
        losses, hits = np.zeros(len(prompts.tokens)), np.zeros(len(prompts.tokens))
        vocabulary = self._model.config.get_text_config().vocab_size
        limits = BatchLimits(self._limits.examples, min(self._limits.tokens, _LOGITS_AT_ONCE // vocabulary))
        limits = limits.unless_alone(self._inputs.data.handling.batching)

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

    def generate(self) -> list[str]:
        """Generated answers, without the token that ends them and other special tokens."""
        counter = self._counter("generating answers")
        rows = self._prompts.tokens.heads(self._prompts.prompt_lengths)
        limits = new_token_limits(
            rows.lengths, self._inputs.spec.evaluation.generation.max_new_tokens, self._inputs.data.model.max_positions
        )
        texts = [""] * len(rows)
        ends = self._inputs.data.end_tokens

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
            answers = [until_end(row, ends) for row in sequences[:, tokens.shape[1] :].cpu().numpy()]
            # transformers would otherwise remove spaces before punctuation if the tokenizer asks for it.
            decoded = self._tokenizer.batch_decode(
                [answer.tolist() for answer in answers], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for index, answer in zip(batch, decoded, strict=True):
                texts[int(index)] = answer
            counter.add(len(batch))

        at_once = self._limits.unless_alone(self._inputs.data.handling.batched_generation)
        for limit in np.unique(limits):
            chosen = np.flatnonzero(limits == limit)
            with self._greedy(int(limit)):
                batches = length_sorted(rows.lengths[chosen] + limit, at_once)
                each_batch([chosen[batch] for batch in batches], work)
        return texts

    @contextmanager
    def _greedy(self, new_tokens: int) -> Iterator[None]:
        """Replace the generation config of the model, so that its sampling settings and penalties have no effect."""
        own = self._model.generation_config
        configuration: Any = GenerationConfig
        self._model.generation_config = configuration(
            do_sample=False,
            num_beams=1,
            max_new_tokens=new_tokens,
            eos_token_id=list(self._inputs.data.end_tokens) or None,
            pad_token_id=self._padding,
        )
        try:
            yield
        finally:
            self._model.generation_config = own
