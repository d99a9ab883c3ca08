"""Metrics by the values of a column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from finetune_api.evaluation import MetricResult, Verdict
from finetune_api.failures import StageFailure
from finetune_api.spec import Metric
from finetune_trainer.evaluate.classification import Classified, compared
from finetune_trainer.evaluate.metrics import Ints
from finetune_trainer.evaluate.slices import short, slice_tables
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.slices import SliceReader
from tests.unit.prepare_cases import a_file

REGIONS = [*["north"] * 8, "south", "South ", "south", None]
RIGHT = [True] * 7 + [False, True, True, False, False]


def a_test_split(*columns: list[str | None]) -> pa.Table:
    return pa.table({"slices": [json.dumps(row) for row in zip(*columns, strict=True)]})


def measure(right: list[bool], before: list[bool]) -> Any:
    """The accuracy of a model, for a baseline that is right where ``before`` is true."""
    gold = np.zeros(len(right), np.int64)
    outputs = [Classified.single(np.eye(2)[1 - np.array(answers, np.int64)]) for answers in (before, right)]

    def of_part(part: Ints) -> list[MetricResult]:
        result = compared(Metric.ACCURACY, gold[part], *(one.take(part) for one in outputs), labels=2, seed=1)
        assert result
        return [result]

    return of_part


def test_the_whole_is_not_the_mean_of_its_slices_and_no_value_is_shown_as_such() -> None:
    (table,) = slice_tables(["region"], a_test_split(REGIONS), measure(RIGHT, [False] * 12))
    found = {value["value"]: (value["examples"], value["metrics"][0]["tuned"]) for value in table["values"]}
    assert found == {"north": (8, 0.875), "south": (2, 0.5), "South ": (1, 1.0), None: (1, 0.0)}
    (whole,) = measure(RIGHT, [False] * 12)(np.arange(12))
    assert whole.tuned == 0.75
    assert np.mean([tuned for _, tuned in found.values()]) == pytest.approx(0.59375)
    assert all(len(value["metrics"][0]["interval"]) == 2 for value in table["values"])


@pytest.mark.parametrize(("rows", "verdict"), [(9, None), (10, "better")])
def test_few_rows_have_no_verdict(rows: int, verdict: str | None) -> None:
    (table,) = slice_tables(["a"], a_test_split(["x"] * rows), measure([True] * rows, [False] * rows))
    assert table["values"][0]["metrics"][0]["verdict"] == verdict
    (one,) = short([table], "accuracy")
    assert (one.examples, one.tuned, one.verdict) == (rows, 1.0, None if verdict is None else Verdict.BETTER)


def test_slices_are_short_only_if_they_are_few() -> None:
    tables = slice_tables(["a"], a_test_split([str(row) for row in range(13)]), measure([True] * 13, [False] * 13))
    assert short(tables, "accuracy") == ()
    assert short(slice_tables(["a"], a_test_split(["v" * 41]), measure([True], [False])), "accuracy") == ()
    assert slice_tables([], pa.table({}), measure([True], [False])) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("South ", "South "),
        (3, "3"),
        (True, "true"),
        (1.5, "1.5"),
        (None, None),
        ("", None),
        (float("nan"), None),
        (" ", " "),
    ],
)
def test_a_value_is_kept_as_it_is(value: Any, expected: str | None) -> None:
    assert json.loads(SliceReader(["a"], "s3://b/t").read({"a": value})) == [expected]


@pytest.mark.parametrize(("value", "message"), [(["a"], "contains a list"), ("\ud83d", "unpaired surrogate")])
def test_a_value_that_is_no_text_is_an_invalid_row(value: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        SliceReader(["a"], "s3://b/t").read({"a": value})


def test_a_column_that_no_row_has_is_refused_with_the_known_ones() -> None:
    reader = SliceReader(["region", "channel"], "s3://b/t.jsonl")
    reader.read({"text": "a", "region": "b"})
    with pytest.raises(StageFailure, match=r"s3://b/t\.jsonl: .* 'channel'.*\(columns: 'text', 'region'\)"):
        reader.check_read()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([str(number) for number in range(10_000)], "column 'a' of s3://b/t has 10,000 different values, more"),
        (["v" * 201], "column 'a' of s3://b/t has a value of 201 characters, more than 200"),
    ],
)
def test_a_column_that_makes_no_slices_is_refused(values: list[str], message: str) -> None:
    reader = SliceReader(["a"], "s3://b/t")
    for value in values:
        reader.read({"a": value})
    with pytest.raises(StageFailure, match=message):
        reader.check_read()


def test_fifty_values_and_rows_without_one_are_slices() -> None:
    reader = SliceReader(["a"], "s3://b/t")
    for number in range(60):
        reader.read({"a": number if number < 50 else None})
    reader.check_read()


def test_headers_are_checked_before_the_rows(tmp_path: Path) -> None:
    file = a_file(tmp_path / "rows.csv", "text,label\na,b\n")
    with pytest.raises(StageFailure, match=r"rows\.csv:1: evaluation\.slices names the column 'region'"):
        SliceReader(["region"], "s3://b/t").check_headers([file])
