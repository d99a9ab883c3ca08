"""Comparison for tasks that generate text: the tuned model and the base model, with the same prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from finetune_api.evaluation import BaselineKind, MetricResult
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Metric
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter, metric_result
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric, corpus_metric
from finetune_trainer.evaluate.intervals import corpus_interval, ratio_interval
from finetune_trainer.evaluate.metrics import ANSWER_METRICS, TEACHER_FORCED, Floats, Ints, ratio
from finetune_trainer.evaluate.prompts import Prompts
from finetune_trainer.modelling.batching import BatchLimits, each_batch, length_sorted
from finetune_trainer.modelling.loading import check_finite
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.tokenizer import load_prepared_tokenizer
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.splits import open_split

_LIMITS = {"cpu": BatchLimits(examples=16, tokens=4096), "cuda": BatchLimits(examples=64, tokens=131072)}
_LOGITS_AT_ONCE = 1 << 28  # Elements, 1 GiB as float32.
_HEARTBEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Answers:
    """Results of a model on the test split; arrays have shape (examples,)."""

    losses: Floats
    """Mean loss of the answer tokens, in nats per token."""
    hits: Floats
    """Share of answer tokens that have the highest logit."""
    texts: list[str] | None
    """Generated answers; None when no metric needs them."""


def compare(inputs: EvaluationInputs, form: type[Prompts]) -> Comparison:
    """Run baseline and tuned model on the test split, whose rows have the form ``form``.

    Raises:
        StageFailure: BadConfiguration (the model does not fit the data), BadData (no answer tokens in test), Diverged
            (a loss that is not finite), OutOfMemory.
    """
    table = open_split(inputs.prepared, SPLIT)
    prompts = form.of_table(table)
    if not prompts.learned.any():
        raise StageFailure(Reason.BAD_DATA, "The test split contains no answer tokens; check dataset.columns")
    tokenizer = load_prepared_tokenizer(inputs.prepared)
    answers: dict[str, Answers] = {}
    for name, model in inputs.method.baseline_and_tuned(inputs.load, inputs.base, inputs.trained):
        prompts.check(model)
        answers[name] = _Runner(inputs, prompts, tokenizer, name, model).run()
        del model  # Frees its memory for the next model.
    baseline, tuned = answers["baseline"], answers["tuned"]

    language = inputs.spec.task.target_language
    corpora = {metric: corpus for metric in inputs.spec.metrics if (corpus := corpus_metric(metric, language))}
    scores = {metric: _scores(metric, corpora, prompts, baseline, tuned) for metric in inputs.spec.metrics}
    seed = inputs.spec.training.seed
    results = tuple(
        _result(
            metric,
            scores[metric],
            corpus=corpora.get(metric),
            prompts=prompts,
            answers=(baseline, tuned),
            seed=seed,
        )
        for metric in scores
    )
    details = _details(inputs, prompts, corpora) if tuned.texts is not None else {}
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


def _scores(
    metric: Metric, corpora: Mapping[Metric, CorpusMetric], prompts: Prompts, baseline: Answers, tuned: Answers
) -> tuple[Floats, Floats, Floats]:
    """Baseline values, tuned values and weights, each of shape (examples,)."""
    weights = prompts.learned.astype(np.float64)
    if metric is Metric.LOSS:
        return baseline.losses, tuned.losses, weights
    if metric is Metric.TOKEN_ACCURACY:
        return baseline.hits, tuned.hits, weights
    value = corpora[metric].of_one if metric in corpora else ANSWER_METRICS[metric]
    of_baseline, of_tuned = (
        np.array([value(*pair) for pair in zip(answers.texts or (), prompts.references, strict=True)])
        for answers in (baseline, tuned)
    )
    return of_baseline, of_tuned, np.ones(len(prompts.references))


def _result(
    metric: Metric,
    scores: tuple[Floats, Floats, Floats],
    *,
    corpus: CorpusMetric | None,
    prompts: Prompts,
    answers: tuple[Answers, Answers],
    seed: int,
) -> MetricResult:
    """The result of a metric; ``answers`` are those of baseline and tuned model."""
    of_baseline, of_tuned, weights = scores
    if corpus is None:
        interval = ratio_interval(of_baseline, of_tuned, weights, seed=seed)
        return metric_result(metric, ratio(of_baseline, weights), ratio(of_tuned, weights), interval)
    before, after = (corpus.statistics(of_model.texts or (), prompts.references) for of_model in answers)
    interval = corpus_interval(corpus, before, after, seed=seed)
    return metric_result(metric, corpus.score(before.sum(axis=0)), corpus.score(after.sum(axis=0)), interval)


def _details(inputs: EvaluationInputs, prompts: Prompts, corpora: Mapping[Metric, CorpusMetric]) -> dict[str, Any]:
    generation = inputs.spec.evaluation.generation
    limits = prompts.limits(generation.max_new_tokens, inputs.data.model.max_positions)
    limited = int((limits < generation.max_new_tokens).sum())
    longer = int((prompts.learned > generation.max_new_tokens).sum())
    return {
        "decoding": "greedy" if generation.beams == 1 else f"beam search with {generation.beams} beams",
        "maxNewTokens": generation.max_new_tokens,
        "endTokens": list(inputs.data.end_tokens),
        **({"settings": inputs.data.generation} if inputs.data.generation else {}),
        **({"limitedAnswers": limited} if limited else {}),
        **({"longerReferences": longer} if longer else {}),
        **({"signatures": {str(metric): corpus.signature for metric, corpus in corpora.items()}} if corpora else {}),
    }


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
        examples = len(self._prompts.references)
        losses, hits = np.zeros(examples), np.zeros(examples)
        if wanted.intersection(TEACHER_FORCED):
            losses, hits = self._score()
        texts = self._generate() if wanted.difference(TEACHER_FORCED) else None
        return Answers(losses, hits, texts)

    def _counter(self, activity: str) -> ExampleCounter:
        return ExampleCounter(self._inputs.reporter, f"{activity} ({self._name})", len(self._prompts.references))

    def _score(self) -> tuple[Floats, Floats]:
        """Teacher-forced loss and token accuracy of each example."""
        prompts, counter = self._prompts, self._counter("measuring the loss")
        losses, hits = np.zeros(len(prompts.references)), np.zeros(len(prompts.references))
        vocabulary = self._model.config.get_text_config().vocab_size
        limits = BatchLimits(self._limits.examples, min(self._limits.tokens, _LOGITS_AT_ONCE // vocabulary))
        limits = limits.unless_alone(self._inputs.data.handling.batching)

        def work(batch: Ints) -> None:
            device = self._hardware.device
            with torch.inference_mode(), self._hardware.autocast():
                logits, targets = prompts.score(self._model, batch, self._padding, device)
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

        each_batch(length_sorted(prompts.lengths, limits), work)
        return losses, hits

    def _generate(self) -> list[str]:
        """Generated answers, without the token that ends them and other special tokens."""
        counter = self._counter("generating answers")
        prompts, new_tokens = self._prompts, self._inputs.spec.evaluation.generation.max_new_tokens
        limits = prompts.limits(new_tokens, self._inputs.data.model.max_positions)
        texts = [""] * len(prompts.references)
        ends = self._inputs.data.end_tokens

        def work(batch: Ints) -> None:
            given = prompts.inputs(batch, self._padding, self._hardware.device)
            with torch.inference_mode(), self._hardware.autocast():
                sequences = self._model.generate(**given, stopping_criteria=StoppingCriteriaList([_Heartbeat(counter)]))
            answers = [until_end(row, ends) for row in prompts.generated(sequences, given).cpu().numpy()]
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
            with self._settings(int(limit)):
                batches = length_sorted(prompts.prompt_lengths[chosen] + limit, at_once)
                each_batch([chosen[batch] for batch in batches], work)
        return texts

    @contextmanager
    def _settings(self, new_tokens: int) -> Iterator[None]:
        """Replace the generation config of the model, so that its sampling settings and penalties have no effect."""
        own = self._model.generation_config
        configuration: Any = GenerationConfig
        self._model.generation_config = configuration(
            do_sample=False,
            num_beams=self._inputs.spec.evaluation.generation.beams,
            max_new_tokens=new_tokens,
            eos_token_id=list(self._inputs.data.end_tokens) or None,
            pad_token_id=self._padding,
            **self._inputs.data.generation,
        )
        try:
            yield
        finally:
            self._model.generation_config = own
