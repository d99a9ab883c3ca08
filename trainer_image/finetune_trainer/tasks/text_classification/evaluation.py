"""TextClassification: compares the tuned model with the better of linear probe and majority class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModel

from finetune_api.evaluation import BaselineKind, MetricResult
from finetune_api.spec import Metric
from finetune_trainer.evaluate import baseline as baselines
from finetune_trainer.evaluate.base_score import BaseScore
from finetune_trainer.evaluate.baseline import Labelled
from finetune_trainer.evaluate.classification import Classified, compared, score_of
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter
from finetune_trainer.evaluate.linear_probe import Features
from finetune_trainer.evaluate.metrics import Ints, Labels
from finetune_trainer.modelling.batching import BatchLimits, TokenRows, each_batch, length_sorted, padded
from finetune_trainer.modelling.loading import check_finite, check_vocabulary, set_padding
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.prepared import DataReport
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.text_classification.outputs import label_table, prediction_rows
from finetune_trainer.tasks.text_classification.preparation import undefined_auroc
from finetune_trainer.tasks.text_classification.teaching import labels_in

_LIMITS = {"cpu": BatchLimits(examples=64, tokens=4096), "cuda": BatchLimits(examples=512, tokens=65536)}


def compare(inputs: EvaluationInputs) -> Comparison:
    """Run baseline and tuned model on the test split.

    Raises:
        StageFailure: BadConfiguration (the model does not fit the data), BadData (a metric is not defined on the test
            split), Diverged (outputs that are not finite), OutOfMemory.
    """
    test = open_split(inputs.prepared, SPLIT)
    rows = TokenRows.of_column(test["input_ids"])
    chosen = _baseline(inputs, test) if inputs.previous is None else _previous(inputs, rows)
    tuned = tuned_output(inputs, rows) if inputs.tuned_output is None else inputs.tuned_output
    return compared_outputs(inputs, test, chosen, tuned)


def compared_outputs(
    inputs: EvaluationInputs, test: pa.Table, chosen: baselines.ClassifierBaseline, tuned: Classified
) -> Comparison:
    """The comparison of the output of the baseline with another.

    Raises:
        StageFailure: BadData when a metric is not defined on the test split.
    """
    data = inputs.data
    gold = labels_of(test, data)

    def measure(part: Ints) -> tuple[MetricResult, ...]:
        models = chosen.output.take(part), tuned.take(part)
        seed = inputs.spec.training.seed
        found = [
            compared(metric, gold[part], *models, labels=len(data.labels), seed=seed) for metric in inputs.spec.metrics
        ]
        return tuple(result for result in found if result is not None)

    results = measure(np.arange(len(gold)))
    if len(results) < len(inputs.spec.metrics):
        raise undefined_auroc()
    # An endpoint gives a label, and no probability.
    confident = inputs.spec.model.endpoint is None
    predictions = prediction_rows(test, data, gold, chosen.output, tuned, confident=confident)
    tables = {"labels": label_table(data, gold, chosen.output, tuned)}
    details = _named(chosen.details, data.labels)
    return Comparison(chosen.kind, details, results, measure, predictions, tuned_output=tuned, tables=tables)


def answer_scores(inputs: EvaluationInputs, answers: Sequence[str]) -> dict[str, float]:
    """See `finetune_trainer.tasks.teachable.ScoresAnswers`; an answer that is no label is wrong."""
    data = inputs.data
    gold = labels_of(open_split(inputs.prepared, SPLIT), data)
    chosen = np.zeros((len(answers), len(data.labels)))
    for row, answer in enumerate(answers):
        chosen[row, labels_in(answer, data.labels, multi_label=data.multi_label) or []] = 1.0
    output = Classified.multiple(chosen) if data.multi_label else Classified.single_or_none(chosen)
    scores = {
        metric: score_of(metric, gold, output, len(data.labels))
        for metric in inputs.spec.metrics
        if metric not in (Metric.AUROC, Metric.ECE)
    }
    return {str(metric): value for metric, value in scores.items() if value is not None}


def base_score(inputs: EvaluationInputs) -> BaseScore:
    """The score of a linear probe on the frozen base model, or of the majority class, on the test split.

    Raises:
        StageFailure: As `compare`.
    """
    test = open_split(inputs.prepared, SPLIT)
    chosen = _baseline(inputs, test)
    gold = labels_of(test, inputs.data)
    score, name = baselines.score_of(gold)
    kind = "linear probe" if chosen.kind is BaselineKind.LINEAR_PROBE else "majority class"
    return BaseScore(f"{baselines.WORDS[name]} of the {kind}", score(chosen.output, gold), higher_is_better=True)


def _named(details: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The details of the baseline with the names of labels for their indices."""
    majority = details.get("majorityClass", {})
    if not majority:
        return details
    if "label" in majority:
        majority["label"] = names[majority["label"]]
    else:
        majority["labels"] = [names[index] for index in majority["labels"]]
    return details


def _previous(inputs: EvaluationInputs, rows: TokenRows) -> baselines.ClassifierBaseline:
    """The output of the model that was published before."""
    return baselines.ClassifierBaseline(
        BaselineKind.PREVIOUS, _output(inputs, inputs.previous_model(), "baseline", rows), {}
    )


def _baseline(inputs: EvaluationInputs, test: pa.Table) -> baselines.ClassifierBaseline:
    seed = inputs.spec.training.seed
    train, validation = open_split(inputs.prepared, "train"), open_split(inputs.prepared, "validation")
    chosen = baselines.sample(len(train), seed)
    rows = {
        "train": TokenRows.of_column(train["input_ids"]).take(chosen),
        "validation": TokenRows.of_column(validation["input_ids"]),
        "test": TokenRows.of_column(test["input_ids"]),
    }
    # AutoModel may add a random pooler, but only the hidden states are used.
    backbone = inputs.load_as(AutoModel, inputs.base).model
    counter = ExampleCounter(
        inputs.reporter, "computing features of the base model", sum(len(split) for split in rows.values())
    )
    features = {}
    for name, split in rows.items():
        check_vocabulary(backbone, split)
        features[name] = mean_features(
            backbone, split, inputs.data.padding, inputs.hardware, counter, limits=_limits(inputs)
        )
    fits = ExampleCounter(inputs.reporter, "fitting the linear probe", len(chosen))
    return baselines.choose(
        Labelled(features["train"], labels_of(train, inputs.data)[chosen]),
        Labelled(features["validation"], labels_of(validation, inputs.data)),
        features["test"],
        len(inputs.data.labels),
        seed=seed,
        on_fit=lambda: fits.add(0),
    )


def tuned_output(inputs: EvaluationInputs, rows: TokenRows) -> Classified:
    """The output of the tuned model for ``rows``.

    Raises:
        StageFailure: As `compare`.
    """
    return _output(inputs, inputs.method.tuned(inputs.load, inputs.base, inputs.trained), "tuned", rows)


def _output(inputs: EvaluationInputs, model: Any, name: str, rows: TokenRows) -> Classified:
    """The output of a classifier, the baseline or the tuned model as ``name`` says."""
    padding, multi_label = inputs.data.padding, inputs.data.multi_label
    probabilities = np.zeros((len(rows), len(inputs.data.labels)), dtype=np.float32)
    set_padding(model, padding)
    check_vocabulary(model, rows)
    hardware = inputs.hardware
    counter = ExampleCounter(inputs.reporter, f"classifying with the {name} model", len(rows))

    def work(batch: Ints) -> None:
        tokens, mask = (tensor.to(hardware.device) for tensor in padded(rows, batch, padding))
        with torch.inference_mode(), hardware.autocast():
            logits = model(input_ids=tokens, attention_mask=mask).logits.float()
        check_finite(logits, name, "output")
        found = logits.sigmoid() if multi_label else logits.softmax(dim=-1)
        probabilities[batch] = found.cpu().numpy()
        counter.add(len(batch))

    each_batch(length_sorted(rows.lengths, _limits(inputs)), work)
    return Classified.multiple(probabilities) if multi_label else Classified.single(probabilities)


def _limits(inputs: EvaluationInputs) -> BatchLimits:
    return _LIMITS[inputs.hardware.device.type].unless_alone(inputs.data.handling.batching)


def mean_features(
    backbone: Any, rows: TokenRows, padding: int, hardware: Hardware, counter: ExampleCounter, *, limits: BatchLimits
) -> Features:
    """The mean of the last hidden states over the tokens of each example: float32 (examples, hidden size).

    Raises:
        StageFailure: Diverged when a value is not finite.
    """
    features = np.zeros((len(rows), backbone.config.get_text_config().hidden_size), dtype=np.float32)

    def work(batch: Ints) -> None:
        tokens, mask = (tensor.to(hardware.device) for tensor in padded(rows, batch, padding))
        with torch.inference_mode(), hardware.autocast():
            states = backbone(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        means = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        check_finite(means, "baseline", "hidden state")
        features[batch] = means.cpu().numpy()
        counter.add(len(batch))

    each_batch(length_sorted(rows.lengths, limits), work)
    return features


def labels_of(table: pa.Table, data: DataReport) -> Labels:
    """The labels of each row as `Classified.predicted` has them."""
    if not data.multi_label:
        return np.asarray(table["label"].to_numpy(), np.int64)
    lists = TokenRows.of_column(table["labels"])
    matrix = np.zeros((len(lists), len(data.labels)), np.bool_)
    matrix[np.repeat(np.arange(len(lists)), lists.lengths), lists.values] = True
    return matrix
