"""evaluation.slices through the stages of tasks that generate text or point at answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import Stage
from finetune_trainer.splits import open_split
from tests.trainer.conftest import prepared as prepared_job
from tests.trainer.prepare_fixtures import a_context, json_lines, prepared, refused, stored
from tests.trainer.qa_fixtures import heart_job
from tests.trainer.stages import TinyJob, instruction_job, write_jsonl
from tests.trainer.test_prepare import MODEL, intents

CHANNELS = ("mail", "chat", None)


def sliced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"channel": CHANNELS[index % 3]} for index, row in enumerate(rows)]


def evaluated(job: TinyJob) -> dict[str, Any]:
    prepared_job(job)
    for stage in (Stage.TRAIN, Stage.EVALUATE):
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    evaluation: dict[str, Any] = json.loads((job.revision / "evaluated" / "evaluation.json").read_text())
    return evaluation


def weighted_mean(evaluation: dict[str, Any], metric: str) -> float:
    (table,) = evaluation["details"]["slices"]
    total = sum(value["examples"] for value in table["values"])
    assert total == evaluation["examples"]
    values = [
        value["examples"] * found["tuned"]
        for value in table["values"]
        for found in value["metrics"]
        if found["name"] == metric
    ]
    return sum(values) / total


def of_all(evaluation: dict[str, Any], metric: str) -> float:
    return float(next(found["tuned"] for found in evaluation["metrics"] if found["name"] == metric))


def test_generated_answers_are_measured_by_slice(tmp_path: Path) -> None:
    job = instruction_job(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    write_jsonl(tmp_path / "train.jsonl", sliced(rows))
    job.spec["training"] |= {"maxSteps": 4}
    job.spec["evaluation"] |= {"slices": ["channel"], "metrics": ["rouge_l", "chrf", "loss"]}
    evaluation = evaluated(job)
    assert {one["value"] for one in evaluation["details"]["slices"][0]["values"]} == set(CHANNELS)
    assert weighted_mean(evaluation, "rouge_l") == pytest.approx(of_all(evaluation, "rouge_l"))
    assert all(len(one["metrics"]) == 3 for one in evaluation["details"]["slices"][0]["values"])
    assert "<i>no value</i>" in (job.revision / "evaluated" / "report.html").read_text()


def test_spans_are_measured_by_slice_and_a_metric_of_none_of_its_questions_is_left_out(tmp_path: Path) -> None:
    answered = [{"question": f"who is {name}", "context": f"{name} is here", "answers": [name]} for name in "abcdefgh"]
    unanswered = [{"question": f"where is {name}", "context": "the room is empty", "answers": []} for name in "ijkl"]
    rows = [row | {"channel": "mail"} for row in answered] + [row | {"channel": "chat"} for row in unanswered]
    job = heart_job(tmp_path, rows, evaluation={"slices": ["channel"], "publishWorse": True})
    job.spec["training"] |= {"maxSteps": 4}
    evaluation = evaluated(job)
    assert weighted_mean(evaluation, "squad_f1") == pytest.approx(of_all(evaluation, "squad_f1"))
    values = {value["value"]: value for value in evaluation["details"]["slices"][0]["values"]}
    names = {value: [metric["name"] for metric in found["metrics"]] for value, found in values.items()}
    assert names == {
        "mail": ["squad_f1", "exact_match", "has_answer_f1"],
        "chat": ["squad_f1", "exact_match", "no_answer_f1"],
    }


def test_the_column_is_kept_with_the_test_split_only_and_changes_nothing_else(tmp_path: Path) -> None:
    rows = sliced(intents(200))
    uri = json_lines(tmp_path / "rows.jsonl", rows)
    task = {"type": "TextClassification"}
    plain = a_context(tmp_path / "plain", MODEL, task, {"train": {"uri": uri}})
    with_slices = a_context(
        tmp_path / "sliced", MODEL, task, {"train": {"uri": uri}}, evaluation={"slices": ["channel"]}
    )
    for context in (plain, with_slices):
        prepared(context)
    for split in ("train", "validation", "test"):
        without, found = (open_split(stored(context), split) for context in (plain, with_slices))
        assert ("slices" in found.column_names) is (split == "test")
        assert found.select(without.column_names).equals(without)
    table = open_split(stored(with_slices), "test")
    by_text = {row["text"]: row["channel"] for row in rows}
    found = zip(table["text"].to_pylist(), table["slices"].to_pylist(), strict=True)
    assert all(json.loads(value) == [by_text[text]] for text, value in found)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("chanel", "evaluation.slices names the column 'chanel', which the data with the test split does not have"),
        ("id", "test.jsonl has 60 different values, more than 50"),
    ],
)
def test_a_column_without_slices_is_refused_in_prepare(tmp_path: Path, column: str, message: str) -> None:
    # Only the data with the test split needs the column.
    dataset = {
        "train": {"uri": json_lines(tmp_path / "train.jsonl", intents(80))},
        "test": {
            "uri": json_lines(
                tmp_path / "test.jsonl", [row | {"id": index} for index, row in enumerate(intents(60, seed=2))]
            )
        },
    }
    context = a_context(tmp_path, MODEL, {"type": "TextClassification"}, dataset, evaluation={"slices": [column]})
    failure = refused(context)
    assert message in failure.message
    if column == "chanel":
        assert "(columns: 'text', 'label', 'id')" in failure.message
