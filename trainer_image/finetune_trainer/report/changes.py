"""Changes between baseline and tuned model per example and per label, from the rows of ``predictions.jsonl``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

_SHOWN = 12
_GENERATIONS_SHOWN = 8
_CONFUSIONS = 12

Row = Mapping[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class LabelChange:
    """Recall of one label for baseline and tuned model, from 0 to 1."""

    label: str
    examples: int
    train_examples: int
    baseline: float
    tuned: float


@dataclass(frozen=True)
class Confusion:
    """Number of test examples of ``label`` that each model predicts as ``predicted``."""

    label: str
    predicted: str
    baseline: int
    tuned: int


@dataclass(frozen=True)
class ClassificationChanges:
    """Test examples by correctness before and after tuning; ``*_rows`` are samples to show in the report."""

    fixed: int
    broken: int
    both_right: int
    both_wrong: int
    fixed_rows: list[Row]
    broken_rows: list[Row]
    wrong_rows: list[Row]
    labels: list[LabelChange]
    confusions: list[Confusion]


@dataclass(frozen=True)
class ScoredRow:
    """A generated answer with the scores of both models."""

    row: Row
    baseline: float
    tuned: float
    gain: float


@dataclass(frozen=True)
class GenerationChanges:
    """Numbers of test examples by the change of one metric, and the examples with the largest changes."""

    metric: str
    better: int
    worse: int
    same: int
    gains: list[ScoredRow]
    losses: list[ScoredRow]
    unchanged: list[ScoredRow]
    lowest: list[ScoredRow]
    """The answers of the tuned model with the lowest scores, without those that are the reference."""


def classification_changes(
    rows: Sequence[Row], labels: Sequence[str], train_counts: Mapping[str, int], *, examples: bool
) -> ClassificationChanges:
    """Group the predictions of a classifier into fixed, broken and unchanged, and summarise them per label.

    Args:
        rows: Predictions with the keys label, baseline, tuned and text.
        labels: All labels.
        train_counts: Number of training examples per label.
        examples: Whether to keep samples of the rows.
    """
    shown = _SHOWN if examples else 0
    groups: dict[tuple[bool, bool], list[Row]] = {(a, b): [] for a in (True, False) for b in (True, False)}
    for row in rows:
        groups[row["baseline"] == row["label"], row["tuned"] == row["label"]].append(row)
    return ClassificationChanges(
        fixed=len(groups[False, True]),
        broken=len(groups[True, False]),
        both_right=len(groups[True, True]),
        both_wrong=len(groups[False, False]),
        fixed_rows=_spread(groups[False, True], shown),
        broken_rows=_spread(groups[True, False], shown),
        wrong_rows=_spread(groups[False, False], shown),
        labels=_by_label(rows, labels, train_counts),
        confusions=_confusions(rows),
    )


def generation_changes(
    rows: Sequence[Row],
    metric: str,
    higher_is_better: bool,
    *,
    examples: bool,
    is_reference: Callable[[Row], bool] = lambda row: row["tuned"] == row["reference"],
) -> GenerationChanges:
    """Group generated answers by the change of one metric.

    Args:
        rows: Predictions with the key scores; those without the metric are left out.
        metric: A key of ``scores``.
        higher_is_better: Whether an increase of the metric is an improvement.
        examples: Whether to keep samples of the rows.
        is_reference: Whether the answer of the tuned model is the reference of its row.
    """
    shown = _GENERATIONS_SHOWN if examples else 0
    sign = 1 if higher_is_better else -1
    scored = []
    for row in (row for row in rows if metric in row["scores"]):
        score = row["scores"][metric]
        gain = sign * (score["tuned"] - score["baseline"])
        scored.append(ScoredRow(row, score["baseline"], score["tuned"], gain))
    better = sorted((item for item in scored if item.gain > 0), key=lambda item: -item.gain)
    worse = sorted((item for item in scored if item.gain < 0), key=lambda item: item.gain)
    return GenerationChanges(
        metric=metric,
        better=len(better),
        worse=len(worse),
        same=len(scored) - len(better) - len(worse),
        gains=better[:shown],
        losses=worse[:shown],
        unchanged=_spread([item for item in scored if item.gain == 0], shown),
        lowest=sorted((item for item in scored if not is_reference(item.row)), key=lambda item: sign * item.tuned)[
            :shown
        ],
    )


def _spread(rows: list[Item], most: int) -> list[Item]:
    """At most ``most`` rows, evenly spaced over the split."""
    if len(rows) <= most:
        return rows
    return [rows[index * len(rows) // most] for index in range(most)]


def _by_label(rows: Sequence[Row], labels: Sequence[str], train_counts: Mapping[str, int]) -> list[LabelChange]:
    examples = Counter(row["label"] for row in rows)
    found = {
        model: Counter(row["label"] for row in rows if row[model] == row["label"]) for model in ("baseline", "tuned")
    }
    changes = [
        LabelChange(
            label=label,
            examples=examples[label],
            train_examples=train_counts.get(label, 0),
            baseline=found["baseline"][label] / max(examples[label], 1),
            tuned=found["tuned"][label] / max(examples[label], 1),
        )
        for label in labels
    ]
    return sorted(changes, key=lambda change: (-change.examples, change.label))


def _confusions(rows: Sequence[Row]) -> list[Confusion]:
    taken = {
        model: Counter((row["label"], row[model]) for row in rows if row[model] != row["label"])
        for model in ("baseline", "tuned")
    }
    most = sorted(taken["tuned"].items(), key=lambda item: (-item[1], item[0]))[:_CONFUSIONS]
    return [Confusion(label, other, taken["baseline"][label, other], count) for (label, other), count in most]
