"""``finetune init``: from a data file to a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob
from finetune_api.spec import DatasetSpec, Metric
from finetune_api.tables.code import CodeLanguage
from finetune_api.tables.preferences import PreferenceLoss
from finetune_api.tables.tasks import TASKS, TaskType
from finetune_cli.init import address, init, job_name, value
from finetune_cli.lint import findings
from finetune_cli.local import LocalError
from finetune_cli.manifest import load
from finetune_trainer.examine import small_test
from finetune_trainer.prepare.splits import assign, check_sizes

TRAIN = {"train": {"uri": "s3://bucket/data.jsonl"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, name: str, rows: list[dict[str, Any]] | str, model: str | None = None) -> FineTuneJob:
    """The job for a data file; lint accepts its manifest."""
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text)
    assert init(name, model, "job.yaml") == 0
    assert findings(["job.yaml"]).problems == []
    job = load("job.yaml")
    (folder / "job.yaml").unlink()
    return job


def columns_of(job: FineTuneJob) -> dict[str, Any]:
    return job.spec.dataset.columns.model_dump(exclude_none=True, by_alias=True)


def test_programs_without_tests(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"function f{n}(x) {{\n", "completion": f"  return {n} * x;\n}}\n"} for n in range(12)]
    task = written(folder, "data.jsonl", rows).spec.task
    assert (task.type, task.language) == (TaskType.CODE_GENERATION, CodeLanguage.JAVASCRIPT)
    assert "the prompts begin programs in JavaScript, and there are no tests" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "task", "columns"),
    [
        ({"text": "a text", "label": "x"}, "TextClassification", {}),
        ({"id": 1, "Message": "a text", "intent": "x"}, "TextClassification", {"text": "Message", "label": "intent"}),
        ({"q": "a longer text", "kind: of": "x"}, "TextClassification", {"text": "q", "label": "kind: of"}),
        ({"messages": [{"role": "user", "content": "a"}]}, "InstructionTuning", {}),
        ({"prompt": "a", "completion": "b"}, "InstructionTuning", {}),
        ({"instruction": "a", "input": "", "output": "b"}, "InstructionTuning", {}),
        ({"conversations": [{"from": "human", "value": "a"}]}, "InstructionTuning", {}),
        ({"question": "a", "answer": "b"}, "InstructionTuning", {"prompt": "question", "completion": "answer"}),
        ({"prompt": "a", "completion": "b", "tests": "c"}, "CodeGeneration", {}),
        (
            {"task_id": "HumanEval", "prompt": "a", "canonical_solution": "b", "test": "c", "entry_point": "f"},
            "CodeGeneration",
            {"completion": "canonical_solution", "tests": "test"},
        ),
        (
            {"task_id": 1, "text": "a", "code": "b", "test_list": ["c"], "test_setup_code": ""},
            "CodeGeneration",
            {"prompt": "text", "completion": "code", "tests": "test_list"},
        ),
    ],
)
def test_columns_and_task_are_detected(folder: Path, row: dict[str, Any], task: str, columns: dict[str, str]) -> None:
    def varied(value: Any, number: int) -> Any:
        if value == "x":
            return "xy"[number % 2]
        return number if isinstance(value, int) else f"{value} {number}" if isinstance(value, str) and value else value

    rows = [{name: varied(value, number) for name, value in row.items()} for number in range(12)]
    job = written(folder, "data.jsonl", rows)
    assert (str(job.spec.task.type), columns_of(job)) == (task, columns)
    assert job.spec.model.uri == TASKS[job.spec.task.type].starting_model
    assert job.spec.dataset.train.uri == (folder / "data.jsonl").as_uri()


@pytest.mark.parametrize("column", ["label", "tags", "genre"])
@pytest.mark.parametrize("as_text", [False, True])
def test_lists_of_labels_are_detected(folder: Path, column: str, as_text: bool) -> None:
    lists: list[Any] = [["x", "y"][: number % 3] for number in range(12)]
    labels = [json.dumps(labels) for labels in lists] if as_text else lists
    rows = [{"text": f"a text {number}", column: label} for number, label in enumerate(labels)]
    job = written(folder, "data.jsonl", rows)
    assert job.spec.task.multi_label
    assert job.spec.dataset.columns.name("label") == column
    assert job.spec.metrics == (Metric.MICRO_F1, Metric.MACRO_F1)


@pytest.mark.parametrize("kind", [bool, int, str])
def test_judged_answers_are_detected(folder: Path, capsys: pytest.CaptureFixture[str], kind: type) -> None:
    rows = [{"prompt": f"a {n}", "completion": f"b {n}", "label": kind(n % 2 == 0)} for n in range(60)]
    job = written(folder, "data.jsonl", rows)
    assert job.spec.preference
    assert job.spec.preference.loss is PreferenceLoss.KTO
    assert job.spec.metrics == (Metric.AUROC, Metric.MARGIN)
    assert job.spec.dataset.test.fraction == 0.1
    assert "add the other" not in capsys.readouterr().out
    written(folder, "data.jsonl", [row | {"label": kind(True)} for row in rows])
    assert "and the first rows have one kind: add the other." in capsys.readouterr().out
    other = written(folder, "data.jsonl", [row | {"label": "no label"} for row in rows])
    assert other.spec.task.type is TaskType.INSTRUCTION_TUNING


@pytest.mark.parametrize("bad", [{"label": None}, {"label": "maybe"}, {}])
@pytest.mark.parametrize("place", [0, 5])
def test_a_bad_judgement_does_not_make_it_another_task(
    folder: Path, capsys: pytest.CaptureFixture[str], bad: dict[str, Any], place: int
) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"a {n}", "completion": f"b {n}", "label": n % 2 == 0} for n in range(60)]
    rows[place] = {"prompt": "a", "completion": "b", **bad}
    job = written(folder, "data.jsonl", rows)
    assert job.spec.preference
    assert job.spec.preference.loss is PreferenceLoss.KTO
    assert "answers are desirable, 1 has a label that is neither true nor false" in capsys.readouterr().out


def test_judgements_that_are_not_used_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"a {n}", "completion": f"b {n}", "thumbs_up": n % 2, "id": f"x{n}"} for n in range(60)]
    assert written(folder, "data.jsonl", rows).spec.task.type is TaskType.INSTRUCTION_TUNING
    printed = capsys.readouterr()
    assert "note: the task does not use the columns 'thumbs_up', 'id'" in printed.err
    assert "column 'thumbs_up' has true and false and is not used" in printed.out
    written(folder, "data.jsonl", [{"prompt": f"a {n}", "completion": f"b {n}", "system": "c"} for n in range(60)])
    assert "does not use" not in capsys.readouterr().err


def test_one_bad_row_does_not_decide_the_task(folder: Path) -> None:
    rows: list[dict[str, Any]] = [{"translation": {"en": f"text {n}", "de": f"Text {n}"}} for n in range(20)]
    job = written(folder, "a.jsonl", [{"translation": None}, {"messages": "x"}, *rows], model="hf://acme/translator")
    assert (job.spec.task.source_language, job.spec.task.target_language) == ("en", "de")
    rows = [{"q": f"a text {n}", "kind": "xy"[n % 2]} for n in range(20)]
    job = written(folder, "b.jsonl", [*rows, {"q": "a", "kind": None}, {"q": "b", "kind": ["x"]}])
    assert job.spec.task.type is TaskType.TEXT_CLASSIFICATION
    assert not job.spec.task.multi_label


@pytest.mark.parametrize("count", [12, 13, 17, 29, 44, 45, 46, 60])
def test_a_job_on_few_rows_gets_a_test_split_that_it_can_use(count: int) -> None:
    test, notes = small_test(count, DatasetSpec.model_validate_json(json.dumps(TRAIN)))
    assert bool(test) is bool(notes) is (count < 46)
    dataset = DatasetSpec.model_validate_json(json.dumps(TRAIN | ({"test": test} if test else {})))
    for seed in range(20):
        check_sizes(assign({"train": [f"row {row}".encode() for row in range(count)]}, dataset, seed), dataset)


def test_few_rows_are_noted_and_their_copies_are_not_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"a {number}", "completion": f"b {number}"} for number in range(12)]
    job = written(folder, "data.jsonl", rows * 5)
    assert job.spec.dataset.test.fraction == 0.42
    assert (
        "note: 12 different rows are few: the test split has about 5 of them, which measure" in capsys.readouterr().err
    )
    written(folder, "data.jsonl", rows[:9])
    assert "note: 9 different rows are too few for a job, which needs at least 12; add" in capsys.readouterr().err


def test_csv_with_semicolons_and_a_difficult_name(folder: Path) -> None:
    rows = "".join(f"text {number};{'ab'[number % 2]}\n" for number in range(12))
    job = written(folder, "Mein Datensatz #1.csv", "utterance;category\n" + rows)
    assert job.metadata.name == "job"  # As its file, so that two manifests for one data set are two jobs.
    assert columns_of(job) == {"text": "utterance", "label": "category"}


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("\n\n".join(f"part {number}\nof a book" for number in range(60)), "BlankLine"),
        ("\n".join(f"line {number}" for number in range(60)), "Line"),
        ("one\n\ntwo\n", "BlankLine"),
    ],
)
def test_text_files_are_divided_into_enough_documents(folder: Path, content: str, documents: str) -> None:
    job = written(folder, "book.txt", content)
    assert (str(job.spec.task.type), str(job.spec.dataset.documents)) == ("LanguageModeling", documents)
    assert job.spec.dataset.train.uri == (folder / "book.txt").as_uri()


def test_a_folder_of_text_files_has_a_document_in_each(folder: Path) -> None:
    (folder / "texts").mkdir()
    for number in range(60):
        (folder / "texts" / f"{number}.txt").write_text(f"text {number}\n\nof two parts\n")
    assert init("texts", None, "job.yaml") == 0
    assert str(load("job.yaml").spec.dataset.documents) == "File"


@pytest.mark.parametrize(
    ("header", "columns", "languages"),
    [
        ("source;target", {"source": "source", "target": "target"}, (None, "und")),
        ("SOURCE;TARGET;note", {"source": "SOURCE", "target": "TARGET"}, (None, "und")),
        ("English;German;note", {"source": "English", "target": "German"}, ("en", "de")),
        ("EN;DE;note", {"source": "EN", "target": "DE"}, ("en", "de")),
        ("id;fr_FR;pt-BR", {"source": "fr_FR", "target": "pt-BR"}, ("fr-FR", "pt-BR")),
    ],
)
def test_two_columns_of_a_translation(
    folder: Path, header: str, columns: dict[str, str], languages: tuple[str | None, str]
) -> None:
    first = "{n}" if header.startswith("id") else "text {n}"
    row = ";".join([first, "Text {n}", "ok {n}"][: header.count(";") + 1])
    lines = [header, *(row.format(n=number) for number in range(12))]
    job = written(folder, "phrases.csv", "\n".join(lines) + "\n", model="hf://acme/translator")
    assert str(job.spec.task.type) == "Translation"
    assert columns_of(job) == {field: name for field, name in columns.items() if field != name}
    assert (job.spec.task.source_language, job.spec.task.target_language) == languages


@pytest.mark.parametrize("header", ["gender;label", "Age;tag", "is;key"])
def test_columns_with_the_names_of_rare_languages_are_no_translation(folder: Path, header: str) -> None:
    lines = [header, *(f"some text {number};{'xy'[number % 2]} z" for number in range(12))]
    assert str(written(folder, "rows.csv", "\n".join(lines) + "\n").spec.task.type) == "TextClassification"


def test_texts_by_language(folder: Path) -> None:
    rows = [{"translation": {"en": f"text {number}", "de": f"Text {number}"}} for number in range(12)]
    job = written(folder, "phrases.jsonl", rows, model="hf://acme/translator")
    assert (job.spec.task.source_language, job.spec.task.target_language) == ("en", "de")


def test_existing_manifest_is_not_overwritten(folder: Path) -> None:
    (folder / "intents.jsonl").write_text("{}\n")
    (folder / "intents.yaml").write_text("mine")
    with pytest.raises(LocalError, match=r"intents\.yaml exists; name another file with --file") as caught:
        init("intents.jsonl", None, None)
    assert caught.value.exit_code is ExitCode.BAD_CONFIGURATION
    assert (folder / "intents.yaml").read_text() == "mine"


def test_data_that_is_for_no_task_or_missing_is_one_sentence(folder: Path) -> None:
    (folder / "numbers.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(
        LocalError, match=r"No task is recognised from the columns of .* \(a\) and its first 2 rows"
    ) as caught:
        init("numbers.jsonl", None, None)
    assert caught.value.exit_code is ExitCode.BAD_DATA
    with pytest.raises(LocalError, match=r"There is no file none\.csv"):
        init("none.csv", None, None)
    (folder / "header.csv").write_text("text,label\n")
    with pytest.raises(LocalError, match=r"header\.csv has no rows that can be read, only a header"):
        init("header.csv", None, None)
    (folder / "texts.csv").write_text("text,label\na,x\nb,y\n")
    with pytest.raises(LocalError, match=r"There is no directory bert; a model on the hub is hf://owner/name"):
        init("texts.csv", "bert", None)
    with pytest.raises(LocalError, match=r"spec\.model\.uri is 'ftp://x'"):
        init("texts.csv", "ftp://x", None)
    assert list(folder.glob("*.yaml")) == []


def test_names_addresses_and_values(folder: Path) -> None:
    assert job_name("/data/Mein Datensatz #1.csv") == "mein-datensatz-1"
    assert job_name("/data/Support_Intents.v2.jsonl.gz") == "support-intents"
    assert job_name("/data/intents/train.parquet") == "intents-train"
    assert address("data/a b.jsonl", folder) == "file://./data/a%20b.jsonl"
    assert address("/elsewhere/*.csv", folder) == "file:///elsewhere/*.csv"
    assert address("s3://data/x", folder) == "s3://data/x"
    assert [value(text) for text in ("text", "yes", "1e3", "a: b", "x #y")] == [
        "text",
        '"yes"',
        '"1e3"',
        '"a: b"',
        '"x #y"',
    ]
