"""TextClassification: what evaluation.json and predictions.jsonl say about the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from finetune_trainer.evaluate.classification import Classified, counts_by_label
from finetune_trainer.evaluate.metrics import NO_LABEL, Labels
from finetune_trainer.prepared import DataReport

_DIGITS = 6


def prediction_rows(
    test: pa.Table, data: DataReport, gold: Labels, baseline: Classified, tuned: Classified, *, confident: bool
) -> list[dict[str, Any]]:
    """The rows of predictions.jsonl: the label of each model, or with task.multiLabel its list of labels.

    Args:
        test: The test split.
        data: The report about the prepared data.
        gold: The true labels.
        baseline: The output of the baseline.
        tuned: The output of the tuned model.
        confident: Whether the probabilities of labels are those of the models.
    """
    columns = zip(test["source"].to_pylist(), test["text"].to_pylist(), strict=True)
    of = _names_of if data.multi_label else _name_of
    rows = []
    for index, (source, text) in enumerate(columns):
        row = {
            "source": source,
            "text": text,
            "label": of(gold[index], data),
            "baseline": of(baseline.predicted[index], data),
            "tuned": of(tuned.predicted[index], data),
        }
        if confident and not data.multi_label:
            row["confidence"] = {
                "baseline": round(float(baseline.confidences[index]), _DIGITS),
                "tuned": round(float(tuned.confidences[index]), _DIGITS),
            }
        rows.append(row)
    return rows


def _name_of(label: Any, data: DataReport) -> str:
    return "(no label)" if label == NO_LABEL else data.labels[int(label)]


def _names_of(has: Any, data: DataReport) -> list[str]:
    return [data.labels[index] for index in np.flatnonzero(has)]


def label_table(data: DataReport, gold: Labels, baseline: Classified, tuned: Classified) -> list[dict[str, Any]]:
    """For each label its training and test examples, and precision, recall and F1 of both models; None for a value that
    is 0 / 0.
    """
    models = {
        name: counts_by_label(gold, model.predicted, len(data.labels))
        for name, model in (("baseline", baseline), ("tuned", tuned))
    }
    trained = data.splits["train"].label_counts
    rows = []
    for index, label in enumerate(data.labels):
        row: dict[str, Any] = {
            "label": label,
            "trainExamples": trained.get(label, 0),
            "testExamples": int(models["tuned"].gold[0, index]),
        }
        for name, counts in models.items():
            has_gold, has_predicted = counts.gold[0, index] > 0, counts.predicted[0, index] > 0
            row[name] = {
                "precision": float(counts.precision[0, index]) if has_predicted else None,
                "recall": float(counts.recall[0, index]) if has_gold else None,
                "f1": float(counts.f1[0, index]) if has_gold or has_predicted else None,
            }
        rows.append(row)
    return rows
