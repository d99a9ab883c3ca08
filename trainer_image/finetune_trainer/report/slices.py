"""The tables of slices in the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune_api.tables.metrics import Metric
from finetune_trainer.report.format import format_change, format_value


def slice_rows(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns with a row for each value and metric.

    Args:
        tables: The result of `finetune_trainer.evaluate.slices.slice_tables`.
    """
    return [{"column": table["column"], "rows": list(_rows(table["values"]))} for table in tables]


def _rows(values: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for value in values:
        for index, metric in enumerate(value["metrics"]):
            name = Metric(metric["name"])
            low, high = metric["interval"]
            yield {
                "value": value["value"],
                "examples": value["examples"],
                "first": index == 0,
                "metrics": len(value["metrics"]),
                "name": name.row.title,
                "baseline": format_value(name, metric["baseline"]),
                "tuned": format_value(name, metric["tuned"]),
                "change": format_change(name, metric["change"]),
                "low": format_change(name, low),
                "high": format_change(name, high),
                "verdict": metric["verdict"] or "too few examples",
            }
