"""evaluation.slices through the stages of tasks that generate text or point at answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import Stage
from finetune_api.tables.tasks import TaskType
from finetune_trainer.host.inputs import data_digest
from finetune_trainer.manifests import read_manifest
from finetune_trainer.splits import open_split
from tests.trainer.code_models import byte_level_tokenizer, save_llama_with
from tests.trainer.conftest import prepared as prepared_job
from tests.trainer.prepare_fixtures import a_context, json_lines, prepared, refused, stored
from tests.trainer.qa_fixtures import heart_job
from tests.trainer.stages import TinyJob, instruction_job, write_jsonl
from tests.trainer.test_prepare import MODEL, intents
from tests.trainer.tiny_models import save_llama

CHANNELS = ("mail", "chat", None)


def sliced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"channel": CHANNELS[index % 3], "half": index % 2} for index, row in enumerate(rows)]


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

    # Another list of slices is measured with the same weights, which are not trained again.
    trained = (job.revision / "trained" / "manifest.json").read_bytes()
    other = job.changed(evaluation={"slices": ["channel", "half"]})
    next_revision = other.config(Stage.EVALUATE)["job"] | {"revision": 2, "specDigest": "sha256:" + "e" * 64}
    for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE):
        outcome = other.run(stage, attempt=2, job=next_revision)
        assert outcome.code == 0, outcome.log
    assert (job.revision / "trained" / "manifest.json").read_bytes() == trained
    found = json.loads((job.revision.with_name("r2") / "evaluated" / "evaluation.json").read_text())
    assert found["metrics"] == evaluation["metrics"]
    assert found["details"]["slices"][0] == evaluation["details"]["slices"][0]
    assert {one["value"] for one in found["details"]["slices"][1]["values"]} == {"0", "1"}


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
    digests = set()
    for context in (plain, with_slices):
        _, report = prepared(context)
        manifest = read_manifest(context.config.layout.prepared)
        assert manifest
        digests.add(data_digest(manifest, report))
    assert len(digests) == 1, "a checkpoint of one would be refused by the other"
    for split in ("train", "validation", "test"):
        without, found = (open_split(stored(context), split) for context in (plain, with_slices))
        assert ("slices" in found.column_names) is (split == "test")
        assert found.select(without.column_names).equals(without)
    table = open_split(stored(with_slices), "test")
    by_text = {row["text"]: row["channel"] for row in rows}
    found = zip(table["text"].to_pylist(), table["slices"].to_pylist(), strict=True)
    assert all(json.loads(value) == [by_text[text]] for text, value in found)


def test_the_data_are_prepared_again_only_for_other_columns(tmp_path: Path) -> None:
    uri = json_lines(tmp_path / "rows.jsonl", sliced(intents(60)))
    digests = []
    for slices in (["channel"], ["channel"], ["half"]):
        context = a_context(
            tmp_path, MODEL, {"type": "TextClassification"}, {"train": {"uri": uri}}, evaluation={"slices": slices}
        )
        digests.append(prepared(context)[0].digest)
    assert digests[0] == digests[1] != digests[2]


ROWS_OF = {
    TaskType.TEXT_CLASSIFICATION: {"text": "what {} is", "label": "a"},
    TaskType.INSTRUCTION_TUNING: {"prompt": "what {}", "completion": "it is {}"},
    TaskType.QUESTION_ANSWERING: {"question": "who is {}", "context": "{} is here", "answers": ["{}"]},
    TaskType.SUMMARIZATION: {"text": "what {} is", "summary": "it"},
    TaskType.TRANSLATION: {"source": "what {} is", "target": "it"},
    TaskType.PREFERENCE_TUNING: {"prompt": "what {}", "chosen": "it {}", "rejected": "is {}"},
    TaskType.LANGUAGE_MODELING: {"text": "what {} is"},
    TaskType.CODE_GENERATION: {"prompt": "what {} is", "completion": " it"},
}


@pytest.mark.parametrize("task", list(TaskType))
def test_a_column_with_too_many_values_is_refused_for_every_task(tmp_path: Path, task: TaskType) -> None:
    rows = [json.loads(json.dumps(ROWS_OF[task]).replace("{}", f"{number}")) for number in range(60)]
    uri = json_lines(tmp_path / "rows.jsonl", [row | {"key": f"k{index}"} for index, row in enumerate(rows)])
    settings = {"targetLanguage": "de"} if task is TaskType.TRANSLATION else {}
    if task is TaskType.CODE_GENERATION:
        save_llama_with(tmp_path / "llama", byte_level_tokenizer(["what is it"]))
    else:
        save_llama(tmp_path / "llama")
    model = MODEL if task in (TaskType.TEXT_CLASSIFICATION, TaskType.QUESTION_ANSWERING) else None
    context = a_context(
        tmp_path,
        model or (tmp_path / "llama").as_uri(),
        {"type": task, **settings},
        {"train": {"uri": uri}},
        evaluation={"slices": ["key"]},
    )
    assert refused(context).message == (
        f"evaluation.slices: column 'key' of {uri} has 60 different values, more than 50: name a column with fewer "
        "values, such as a region or a source"
    )


def test_a_value_that_is_no_text_drops_no_row(tmp_path: Path) -> None:
    rows = [row | {"key": ["a"] if index == 6 else "a"} for index, row in enumerate(intents(60))]
    uri = json_lines(tmp_path / "rows.jsonl", rows)
    dataset = {"train": {"uri": uri}, "cleaning": {"dropInvalid": 0.5}}
    context = a_context(tmp_path, MODEL, {"type": "TextClassification"}, dataset, evaluation={"slices": ["key"]})
    assert refused(context).message == (
        f"{uri}:7: column 'key' of evaluation.slices contains a list; use text or a number"
    )


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
