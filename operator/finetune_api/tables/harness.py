"""Metrics of tasks of lm-eval, which gates and results name beside the metrics of this project."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from finetune_api.tables.metrics import Metric, MetricRow

MOST_CHARACTERS = 200
TASK = "[A-Za-z0-9][A-Za-z0-9_.()-]{0,99}"
"""Pattern of the name of a task."""
METRIC = f"^{TASK}/[A-Za-z0-9][A-Za-z0-9_.@,+-]{{0,98}}$"

RANGES: dict[tuple[int, int], tuple[str, ...]] = {
    (0, 1): ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
    (-1, 1): ("mcc",),
    (0, 100): ("bleu", "chrf", "chrf++"),
}
"""The metrics that lm-eval computes itself, by their range."""


class HarnessMetric(str):
    """``arc_easy/acc``, or ``gsm8k/exact_match,strict-match`` where a filter of that name reads the answers."""

    @property
    def task(self) -> str:
        return self.partition("/")[0]

    @property
    def metric(self) -> str:
        """The name of the metric, and that of the filter if there is one, as in the results of lm-eval."""
        return self.partition("/")[2]

    @property
    def row(self) -> MetricRow:
        """Without direction, which the task decides."""
        return MetricRow(
            str(self),
            f"{self.metric} of the lm-eval task {self.task}",
            self.metric.partition(",")[0],
            highest=None,
            digits=4,
        )


class _AnyMetric:
    """A `Metric`, or a `HarnessMetric` if there is a slash in its name."""

    @staticmethod
    def __get_pydantic_core_schema__(_: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def read(value: Any, metric: core_schema.ValidatorFunctionWrapHandler) -> Metric | HarnessMetric:
            if not isinstance(value, str) or "/" not in value:
                found: Metric = metric(value)
                return found
            if len(value) > MOST_CHARACTERS or not re.fullmatch(METRIC, value):
                raise PydanticCustomError("metric_name", "{error}", {"error": f"a metric {WANTED}"})
            return HarnessMetric(value)

        return core_schema.no_info_wrap_validator_function(
            read,
            handler.generate_schema(Metric),
            serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json"),
        )

    @staticmethod
    def __get_pydantic_json_schema__(_: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "maxLength": MOST_CHARACTERS}


WANTED = f"is one of {', '.join(Metric)}, or task/metric of a task in evaluation.harness, such as arc_easy/acc"
MetricName = Annotated[Metric | HarnessMetric, _AnyMetric]
