"""Metrics by the values of the columns of evaluation.slices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_api.evaluation import MetricResult, SliceScore
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.evaluate.power import FEWEST
from finetune_trainer.prepare.slices import COLUMN

MOST_SHOWN = 12
"""Slices that fit into status, `finetune get` and the model card."""
_LONGEST_SHOWN = 40

Measure = Callable[[Ints], Sequence[MetricResult]]
"""The metrics of the test examples at these indices; without those that they do not define."""


def slice_tables(columns: Sequence[str], test: pa.Table, measure: Measure) -> list[dict[str, Any]]:
    """For each column its values, most frequent first, each with its number of examples and its metrics.

    Args:
        columns: The columns of evaluation.slices.
        test: The prepared test split.
        measure: Measures a part of the split.
    """
    if not columns:
        return []
    rows = [json.loads(row) for row in test[COLUMN].to_pylist()]
    return [
        {"column": column, "values": list(_values([row[index] for row in rows], measure))}
        for index, column in enumerate(columns)
    ]


def _values(of_rows: list[str | None], measure: Measure) -> Iterator[dict[str, Any]]:
    indices: dict[str | None, list[int]] = {}
    for row, value in enumerate(of_rows):
        indices.setdefault(value, []).append(row)
    for value, rows in sorted(indices.items(), key=lambda item: (-len(item[1]), item[0] is None, item[0] or "")):
        metrics = measure(np.array(rows))
        yield {
            "value": value,
            "examples": len(rows),
            "metrics": [
                metric.model_dump(mode="json") | {"verdict": str(metric.verdict) if len(rows) >= FEWEST else None}
                for metric in metrics
            ],
        }


def short(tables: Sequence[dict[str, Any]], score: str) -> tuple[SliceScore, ...]:
    """The score of each slice, if they are few and their values short; otherwise empty.

    Args:
        tables: The result of `slice_tables`.
        score: Name of the score of the job.
    """
    found = []
    for table in tables:
        for value in table["values"]:
            metric = next((metric for metric in value["metrics"] if metric["name"] == score), None)
            if metric is not None:
                fields = {key: metric[key] for key in ("baseline", "tuned", "interval", "verdict")}
                found.append(
                    SliceScore.model_validate_json(
                        json.dumps(
                            {"column": table["column"], "value": value["value"], "examples": value["examples"]} | fields
                        )
                    )
                )
    too_long = any(len(one.value or "") + len(one.column) > _LONGEST_SHOWN for one in found)
    return () if too_long or len(found) > MOST_SHOWN else tuple(found)
