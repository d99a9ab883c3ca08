"""Comparison for tasks that generate text: the tuned model and the base model, with the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluation import BaselineKind, MetricResult
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Metric
from finetune_api.spec.outcome import GenerationSpec
from finetune_trainer.evaluate.answer_scoring import AnswerForm, AnswerScoring, Samples
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter
from finetune_trainer.evaluate.corpus_metrics import CorpusMetric
from finetune_trainer.evaluate.generation import Generator
from finetune_trainer.evaluate.intervals import corpus_interval, ratio_interval
from finetune_trainer.evaluate.metrics import TEACHER_FORCED, Floats, Ints, metric_result, ratio
from finetune_trainer.evaluate.prompts import Prompts
from finetune_trainer.evaluate.sampling import in_words
from finetune_trainer.evaluate.token_scores import token_scores
from finetune_trainer.modelling.tokenizer import Decode, load_prepared_tokenizer, load_saved_tokenizer, plain_decode
from finetune_trainer.splits import open_split


@dataclass(frozen=True)
class Answers:
    """Results of a model on the test split; arrays have shape (examples,)."""

    losses: Floats
    """Mean loss of the answer tokens, in nats per token."""
    hits: Floats
    """Share of answer tokens that have the highest logit."""
    texts: Sequence[Samples] | None
    """Generated answers as the task reads them; None when no metric needs them."""

    def text(self, index: int) -> Samples | None:
        return None if self.texts is None else self.texts[index]


@dataclass(frozen=True)
class _Measured:
    """A metric of both models: values and weights of the examples, of shape (examples,)."""

    baseline: Floats
    tuned: Floats
    weights: Floats

    def take(self, rows: Ints) -> _Measured:
        return _Measured(self.baseline[rows], self.tuned[rows], self.weights[rows])


def compare(inputs: EvaluationInputs, form: AnswerForm) -> Comparison:
    """Run baseline and tuned model on the test split, whose rows have the form ``form``.

    Raises:
        StageFailure: BadConfiguration (the model does not fit the data), BadData (no answer tokens in test, or no rows
            for a metric), Diverged (a loss that is not finite), OutOfMemory.
    """
    table = open_split(inputs.prepared, SPLIT)
    prompts = form.prompts.of_table(table)
    if not prompts.learned.any():
        raise StageFailure(Reason.BAD_DATA, "The test split contains no answer tokens; check dataset.columns")
    scoring = form.scoring_for(inputs, table)
    metrics = scoring.metrics()
    tokenizer = load_prepared_tokenizer(inputs.prepared)
    generator = Generator(inputs.data, inputs.spec.evaluation.generation, form.decode(tokenizer), inputs.hardware)
    answers: dict[str, Answers] = {} if inputs.tuned_output is None else {"tuned": inputs.tuned_output}
    for name, model in inputs.models():
        prompts.check(model)
        losses = hits = np.zeros(len(prompts.references))
        if set(metrics).intersection(TEACHER_FORCED):
            losses, hits = score_answers(inputs, prompts, name, model)
        texts = None
        if set(metrics).difference(TEACHER_FORCED):
            counter = _counter(inputs, "generating answers", name, prompts, inputs.spec.evaluation.generation.samples)
            drawn = generator.samples(model, prompts, inputs.spec.training.seed, counter.add)
            texts = [[scoring.read(index, answer) for answer in samples] for index, samples in enumerate(drawn)]
        answers[name] = Answers(losses, hits, texts)
        del model  # Frees its memory for the next model.
    baseline, tuned = answers["baseline"], answers["tuned"]
    found = compared(inputs, scoring, prompts.learned, (baseline, tuned), inputs.baseline_kind)
    if tuned.texts is None:
        return found
    return replace(found, details=_details(inputs, prompts, scoring) | form.details(inputs, found.predictions))


def compared(
    inputs: EvaluationInputs,
    scoring: AnswerScoring,
    learned: Ints,
    answers: tuple[Answers, Answers],
    kind: BaselineKind,
) -> Comparison:
    """The comparison of the answers of two models, or of a model to two prompts.

    Args:
        inputs: Inputs of the evaluation.
        scoring: The metrics of the answers.
        learned: Tokens of each answer in the data that have a loss, of shape (examples,).
        answers: Those of the baseline, and the others.
        kind: What the baseline is.
    """
    metrics, (baseline, tuned) = scoring.metrics(), answers
    measured = {metric: _measured(metric, scoring, learned, baseline, tuned) for metric in metrics}
    statistics = {
        metric: [scoring.statistics(metric, of_model.texts or ()) for of_model in (baseline, tuned)]
        for metric in scoring.corpora
        if metric in measured
    }

    def measure(part: Ints) -> tuple[MetricResult, ...]:
        seed, found = inputs.spec.training.seed, []
        for metric, values in measured.items():
            if metric in statistics:
                before, after = (of_model[part] for of_model in statistics[metric])
                found.append(_corpus_result(metric, scoring.corpora[metric], before, after, seed))
            elif values.weights[part].any():
                found.append(_mean_result(metric, values.take(part), seed))
        return tuple(found)

    results = measure(np.arange(len(learned)))
    predictions = [
        scoring.row(index, baseline.text(index), tuned.text(index))
        | {
            "scores": {
                str(metric): {"baseline": float(values.baseline[index]), "tuned": float(values.tuned[index])}
                for metric, values in measured.items()
                if values.weights[index]
            }
        }
        for index in range(len(learned))
    ]
    return Comparison(kind, {}, results, measure, predictions, tuned_output=tuned)


def generated(inputs: EvaluationInputs, prompts: Prompts, decode: Callable[[Any], Decode] = plain_decode) -> list[str]:
    """The answers of the tuned model to ``prompts``, as in `compare`, but always one to each prompt.

    Args:
        inputs: Inputs of the evaluation; ``inputs.trained`` is the published artifact.
        prompts: The prompts.
        decode: How its tokenizer decodes answers.

    Raises:
        StageFailure: As `compare`.
    """
    model = inputs.method.tuned(inputs.load, inputs.base, inputs.trained)
    prompts.check(model)
    tokenizer = load_saved_tokenizer(inputs.trained)
    generator = Generator(inputs.data, inputs.spec.evaluation.generation, decode(tokenizer), inputs.hardware)
    return generator.answers(model, prompts, _counter(inputs, "generating answers", "tuned", prompts).add)


def _measured(metric: Metric, scoring: AnswerScoring, learned: Ints, baseline: Answers, tuned: Answers) -> _Measured:
    weights = learned.astype(np.float64)
    if metric is Metric.LOSS:
        return _Measured(baseline.losses, tuned.losses, weights)
    if metric is Metric.TOKEN_ACCURACY:
        return _Measured(baseline.hits, tuned.hits, weights)
    of_baseline, of_tuned = (scoring.values(metric, answers.texts or ()) for answers in (baseline, tuned))
    return _Measured(of_baseline, of_tuned, scoring.weights(metric))


def _mean_result(metric: Metric, values: _Measured, seed: int) -> MetricResult:
    interval = ratio_interval(values.baseline, values.tuned, values.weights, seed=seed)
    baseline, tuned = (ratio(of_model, values.weights) for of_model in (values.baseline, values.tuned))
    return metric_result(metric, baseline, tuned, interval)


def _corpus_result(metric: Metric, corpus: CorpusMetric, before: Ints, after: Ints, seed: int) -> MetricResult:
    interval = corpus_interval(corpus, before, after, seed=seed)
    return metric_result(metric, corpus.score(before.sum(axis=0)), corpus.score(after.sum(axis=0)), interval)


def _details(inputs: EvaluationInputs, prompts: Prompts, scoring: AnswerScoring) -> dict[str, Any]:
    generation = inputs.spec.evaluation.generation
    limits = prompts.limits(generation.max_new_tokens, inputs.data.positions)
    limited = int((limits < generation.max_new_tokens).sum())
    longer = int((prompts.learned > generation.max_new_tokens).sum())
    return {
        "decoding": _decoding(generation),
        "maxNewTokens": generation.max_new_tokens,
        "endTokens": list(inputs.data.end_tokens),
        **({"settings": inputs.data.generation} if inputs.data.generation else {}),
        **({"limitedAnswers": limited} if limited else {}),
        **({"longerReferences": longer} if longer else {}),
        **scoring.details,
    }


def _decoding(generation: GenerationSpec) -> str:
    if generation.samples > 1:
        return in_words(generation.samples, generation.temperature)
    return "greedy" if generation.beams == 1 else f"beam search with {generation.beams} beams"


def _counter(inputs: EvaluationInputs, activity: str, name: str, prompts: Prompts, times: int = 1) -> ExampleCounter:
    unit = "answers" if times > 1 else "examples"
    return ExampleCounter(inputs.reporter, f"{activity} ({name})", times * len(prompts.prompt_lengths), unit)


def score_answers(inputs: EvaluationInputs, prompts: Prompts, name: str, model: Any) -> tuple[Floats, Floats]:
    """Teacher-forced loss, the mean over the answer tokens in nats, and token accuracy of each example.

    Args:
        inputs: Inputs of the evaluation.
        prompts: Prompts and answers.
        name: ``baseline`` or ``tuned``.
        model: That model.

    Raises:
        StageFailure: Diverged (a loss that is not finite), OutOfMemory.
    """
    counter = _counter(inputs, "measuring the loss", name, prompts)
    found = token_scores(inputs, prompts, name, model, counter.add)
    return _means(found.losses), _means(found.hits)


def _means(rows: Sequence[NDArray[Any]]) -> Floats:
    """The mean of each row, 0 for one without tokens."""
    return np.array([row.sum(dtype=np.float64) / max(1, len(row)) for row in rows])
