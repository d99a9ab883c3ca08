"""TextClassification with any number of labels a row, from the data to the artifact."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune_api.stage import Stage
from finetune_api.tables.tasks import TaskType
from finetune_trainer.predict import Request, predict
from finetune_trainer.prepared import read_report
from finetune_trainer.splits import open_split
from finetune_trainer.tasks import form_of
from tests.trainer.conftest import prepared as prepared_job
from tests.trainer.prepare_fixtures import a_context, prepared, refused, stored
from tests.trainer.stages import TinyJob, classification_job, write_jsonl
from tests.trainer.test_prepare import MODEL
from tests.trainer.tiny_models import FILLER, LABELS, WORDS, save_llama

REGIONS = ("north", "south", "South ", None)
TASK = {"type": "TextClassification", "multiLabel": True}


def made(count: int) -> list[dict[str, Any]]:
    """Different texts with a key word for each of their labels, of which there may be none."""
    generator = np.random.default_rng(5)
    rows = {}
    while len(rows) < count:
        labels = [label for label in LABELS if generator.random() < 0.4]
        words = [str(generator.choice(WORDS[label].split())) for label in labels]
        words += [str(word) for word in generator.choice(FILLER.split(), size=3)]
        text = " ".join(generator.permutation(words))
        rows[text] = {"text": text, "label": labels}
    return list(rows.values())


def written(directory: Path, kind: str, rows: list[dict[str, Any]]) -> str:
    path = directory / f"rows.{kind.rpartition('.')[2]}"
    if kind == "jsonl":
        return write_jsonl(path, rows)
    if kind.endswith("csv"):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for row in rows:
                writer.writerow(
                    [row["text"], json.dumps(row["label"]) if kind == "json.csv" else ";".join(row["label"])]
                )
        return path.as_uri()
    table = pa.Table.from_pylist(rows)
    if kind == "classes.parquet":
        indices = [[LABELS.index(label) for label in row["label"]] for row in rows]
        table = pa.table({"text": table["text"], "label": pa.array(indices, pa.list_(pa.int64()))})
        feature = {"feature": {"names": list(LABELS), "_type": "ClassLabel"}, "_type": "List"}
        info = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)
    return path.as_uri()


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "classes.parquet", "json.csv", "csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = made(60)
    context = a_context(tmp_path, MODEL, TASK, {"train": {"uri": written(tmp_path, kind, rows)}})
    _, report = prepared(context)
    assert (report.labels, report.multi_label) == (LABELS, True)
    found = {}
    for split, counts in report.splits.items():
        table = open_split(stored(context), split)
        found |= dict(zip(table["text"].to_pylist(), table["labels"].to_pylist(), strict=True))
        listed = [index for labels in table["labels"].to_pylist() for index in labels]
        assert counts.label_counts == {label: listed.count(index) for index, label in enumerate(LABELS)}
    assert found == {row["text"]: [LABELS.index(label) for label in row["label"]] for row in rows}
    none = sum(not row["label"] for row in rows)
    assert none
    assert report.notes[0] == f"{none} rows have no label"


def test_unusable_label_lists_are_refused(tmp_path: Path) -> None:
    rows = made(40)
    for name, cell, message in (
        ("text", "fruit", "rows.jsonl:2: column 'label' contains a string, not a list"),
        ("null", None, "write [] for a row without labels"),
    ):
        (tmp_path / name).mkdir()
        uri = written(tmp_path / name, "jsonl", [rows[0], rows[1] | {"label": cell}, *rows[2:]])
        assert message in refused(a_context(tmp_path / name, MODEL, TASK, {"train": {"uri": uri}})).message
    uri = written(tmp_path, "jsonl", [row | {"label": []} for row in rows])
    assert "No row of" in refused(a_context(tmp_path, MODEL, TASK, {"train": {"uri": uri}})).message


def test_auroc_that_the_test_split_does_not_define_is_refused_before_training(tmp_path: Path) -> None:
    rows = made(60)
    test = tmp_path / "test"
    test.mkdir()
    dataset = {
        "train": {"uri": written(tmp_path, "jsonl", rows[10:])},
        "test": {"uri": written(test, "jsonl", [row | {"label": ["fruit"]} for row in rows[:10]])},
    }
    context = a_context(tmp_path, MODEL, TASK, dataset, evaluation={"metrics": ["micro_f1", "auroc"]})
    assert refused(context).message.startswith("auroc needs a label that some test rows have and others do not")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A job with all weights of a BERT."""
    return published(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A job with an adapter of a Llama."""
    return published(tmp_path_factory.mktemp("llama"), "llama")


def published(root: Path, family: str) -> TinyJob:
    job = classification_job(root)
    rows = [row | {"region": REGIONS[index % 4]} for index, row in enumerate(made(160))]
    job.spec["dataset"] = {"train": {"uri": written(root, "jsonl", rows)}}
    job.spec["evaluation"]["slices"] = ["region"]
    job.spec["task"] = TASK
    job.spec["method"] = {"type": "Full" if family == "bert" else "LoRA"}
    job.spec["training"] |= {"maxSteps": 20, "learningRate": 5e-3, "checkpoint": {"everySteps": 100}}
    job.spec["evaluation"]["metrics"] = ["micro_f1", "macro_f1", "weighted_f1", "accuracy", "auroc"]
    job.spec["output"]["keep"] = {"preparedData": True}
    if family == "llama":
        save_llama(root / "base")
    prepared_job(job)
    for stage in (Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH):
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_program_of_the_card_and_predict_give_the_labels_of_the_evaluation(
    request: pytest.FixtureRequest, tmp_path: Path, family: str
) -> None:
    job: TinyJob = request.getfixturevalue(family)
    artifact = job.revision / "artifact"
    rows = [json.loads(line) for line in (job.revision / "evaluated" / "predictions.jsonl").read_text().splitlines()]
    assert [] in [row["label"] for row in rows]
    texts, expected = [row["text"] for row in rows], [row["tuned"] for row in rows]
    (tmp_path / "scratch").mkdir()
    found = predict(Request(artifact=artifact.as_uri(), rows=texts), tmp_path / "scratch").predictions
    assert [one.document["labels"] for one in found] == expected

    program = (artifact / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = program.replace('["A text to classify"]', repr(texts)).replace("path/to/base", str(job.root / "base"))
    printed = io.StringIO()
    with contextlib.chdir(artifact), contextlib.redirect_stdout(printed):
        exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    assert printed.getvalue().strip() == str(expected)

    evaluation = json.loads((artifact / "evaluation.json").read_text())
    assert [metric["name"] for metric in evaluation["metrics"]] == job.spec["evaluation"]["metrics"]
    table = {row["label"]: row for row in evaluation["details"]["labels"]}
    fruit = [("fruit" in row["label"], "fruit" in row["tuned"]) for row in rows]
    assert table["fruit"]["testExamples"] == sum(gold for gold, _ in fruit)
    assert table["fruit"]["tuned"]["recall"] == pytest.approx(fruit.count((True, True)) / sum(g for g, _ in fruit))
    (regions,) = evaluation["details"]["slices"]
    found_regions = {value["value"]: value["examples"] for value in regions["values"]}
    assert set(found_regions) == set(REGIONS)
    assert sum(found_regions.values()) == len(rows)
    assert len(evaluation["slices"]) == 4
    assert '`"South "`' in (artifact / "README.md").read_text()
    report = (artifact / "report.html").read_text()
    assert "“South ”" in report
    assert "(no label)" in report
    assert "Precision" in report


def test_the_loss_is_that_of_plain_transformers(bert: TinyJob) -> None:
    job, artifact = bert, bert.revision / "artifact"
    model = AutoModelForSequenceClassification.from_pretrained(artifact).eval()
    assert model.config.problem_type == "multi_label_classification"
    table, report = open_split(job.revision / "prepared", "validation"), read_report(job.revision / "prepared")
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    inputs = tokenizer(table["text"].to_pylist(), padding=True, return_tensors="pt")
    targets = torch.zeros(len(table), len(LABELS))
    for row, labels in enumerate(table["labels"].to_pylist()):
        targets[row, labels] = 1
    with torch.inference_mode():
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=targets)
    training = json.loads((job.revision / "trained" / "training.json").read_text())
    assert training["validationLoss"] == pytest.approx(float(output.loss), rel=1e-4)
    form = form_of(TaskType(report.task), report.family)
    assert float(form.loss(output.logits, targets, torch.tensor(targets.numel()))) == pytest.approx(float(output.loss))
