"""TextClassification: compares the tuned model with the better of linear probe and majority class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModel

from finetune_trainer.evaluate import baseline as baselines
from finetune_trainer.evaluate.baseline import Features, Labelled
from finetune_trainer.evaluate.comparison import SPLIT, Comparison, EvaluationInputs, ExampleCounter, metric_result
from finetune_trainer.evaluate.intervals import classification_interval
from finetune_trainer.evaluate.metrics import Ints, classification_score
from finetune_trainer.modelling.batching import BatchLimits, TokenRows, each_batch, length_sorted, padded
from finetune_trainer.modelling.loading import check_finite, check_vocabulary, set_padding
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.splits import open_split

_LIMITS = {"cpu": BatchLimits(examples=64, tokens=4096), "cuda": BatchLimits(examples=512, tokens=65536)}


def compare(inputs: EvaluationInputs) -> Comparison:
    """Run baseline and tuned model on the test split.

    Raises:
        StageFailure: BadConfiguration (the model does not fit the data), Diverged (outputs that are not finite),
            OutOfMemory.
    """
    test = open_split(inputs.prepared, SPLIT)
    gold = _labels(test)
    padding = inputs.data.padding
    chosen = _baseline(inputs, test, padding)
    tuned = _tuned_predictions(inputs, TokenRows.of_column(test["input_ids"]), padding)

    labels = len(inputs.data.labels)
    results = []
    for metric in inputs.spec.metrics:
        interval = classification_interval(
            metric, gold, chosen.predictions, tuned, labels, seed=inputs.spec.training.seed
        )
        of_baseline = classification_score(metric, gold, chosen.predictions, labels)
        of_tuned = classification_score(metric, gold, tuned, labels)
        results.append(metric_result(metric, of_baseline, of_tuned, interval))

    name_of = inputs.data.labels
    details = chosen.details
    details["majorityClass"]["label"] = name_of[details["majorityClass"]["label"]]
    predictions = [
        {
            "source": source,
            "text": text,
            "label": name_of[gold[row]],
            "baseline": name_of[chosen.predictions[row]],
            "tuned": name_of[tuned[row]],
        }
        for row, (source, text) in enumerate(zip(test["source"].to_pylist(), test["text"].to_pylist(), strict=True))
    ]
    return Comparison(chosen.kind, details, tuple(results), predictions)


def _baseline(inputs: EvaluationInputs, test: pa.Table, padding: int) -> baselines.ClassifierBaseline:
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
        features[name] = mean_features(backbone, split, padding, inputs.hardware, counter, limits=_limits(inputs))
    fits = ExampleCounter(inputs.reporter, "fitting the linear probe", len(chosen))
    return baselines.choose(
        Labelled(features["train"], _labels(train)[chosen]),
        Labelled(features["validation"], _labels(validation)),
        features["test"],
        seed,
        on_fit=lambda: fits.add(0),
    )


def _tuned_predictions(inputs: EvaluationInputs, rows: TokenRows, padding: int) -> Ints:
    predictions = np.zeros(len(rows), dtype=np.int64)

    def keep(batch: Ints, logits: torch.Tensor) -> None:
        predictions[batch] = logits.argmax(dim=-1).cpu().numpy()

    tuned_logits(inputs, rows, padding, keep)
    return predictions


def tuned_logits(
    inputs: EvaluationInputs, rows: TokenRows, padding: int, keep: Callable[[Ints, torch.Tensor], None]
) -> None:
    """Call ``keep`` with the indices and the logits, float32 of shape (batch, labels), of every batch of ``rows``.

    Raises:
        StageFailure: As `compare`.
    """
    model = inputs.method.tuned(inputs.load, inputs.base, inputs.trained)
    set_padding(model, padding)
    check_vocabulary(model, rows)
    hardware = inputs.hardware
    counter = ExampleCounter(inputs.reporter, "classifying with the tuned model", len(rows))

    def work(batch: Ints) -> None:
        tokens, mask = (tensor.to(hardware.device) for tensor in padded(rows, batch, padding))
        with torch.inference_mode(), hardware.autocast():
            logits = model(input_ids=tokens, attention_mask=mask).logits.float()
        check_finite(logits, "tuned", "output")
        keep(batch, logits)
        counter.add(len(batch))

    each_batch(length_sorted(rows.lengths, _limits(inputs)), work)


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


def _labels(table: pa.Table) -> Ints:
    labels: Ints = table["label"].to_numpy().astype(np.int64)
    return labels
