"""Questions in the prepare stage: files of SQuAD, tables, splits, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_api.failures import Reason
from finetune_trainer.context import StageContext
from finetune_trainer.splits import open_split
from tests.trainer.prepare_fixtures import a_chat_model, a_context, json_lines, prepared, refused, stored
from tests.trainer.qa_fixtures import save_encoder

VALVE = "Valve A7 was replaced on Monday by the night crew."
PUMP = "Pump B2 leaks at the lower seal since March."


def row(**changes: Any) -> dict[str, Any]:
    return {"question": "What leaks?", "context": PUMP, "answers": ["Pump B2"], **changes}


def many(count: int) -> list[dict[str, Any]]:
    """Three questions about each of ``count`` contexts."""
    return [
        row(question=f"Question {number}?", context=f"Machine {index}. {PUMP}", answers=["Pump B2"])
        for index in range(count)
        for number in range(3)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model")
    save_encoder(directory, "bert", [VALVE, PUMP, "What was replaced? Machine 0123456789"])
    return directory.as_uri()


def questions(root: Path, model: str, train: str, **spec: Any) -> StageContext:
    """A job whose splits are the same file, unless ``dataset`` says otherwise."""
    source = {"uri": train}
    alike = {
        "validation": source,
        "test": {**source, "minimumExamples": 1},
        "cleaning": {"deduplicate": "None"},
    }
    dataset = {"train": source, **spec.pop("dataset", alike)}
    training = {"training": {"maxSequenceLength": 64}}
    task = {"type": "QuestionAnswering", **spec.pop("task", {})}
    return a_context(root, model, task, dataset, **(training | spec))


def squad(path: Path, paragraphs: list[tuple[str, list[dict[str, Any]]]], version: str = "1.1") -> str:
    document = {
        "version": version,
        "data": [
            {"title": f"title {index // 2}", "paragraphs": [{"context": context, "qas": asked}]}
            for index, (context, asked) in enumerate(paragraphs)
        ],
    }
    path.write_text(json.dumps(document, indent=1))
    return path.as_uri()


def asked(name: str, text: str | None, start: int = 0, **more: Any) -> dict[str, Any]:
    answers = [] if text is None else [{"text": text, "answer_start": start}]
    return {"id": name, "question": f"Question {name}?", "answers": answers, **more}


def test_answers_beside_their_answer_start_are_moved_and_named(tmp_path: Path, model: str) -> None:
    uri = squad(
        tmp_path / "train.json",
        [
            (VALVE, [asked("q1", "Valve A7"), asked("q2", "Monday", 26), asked("q3", "the night crew", 35)]),
            (PUMP, [asked("q4", "Pump B2"), asked("q5", "the lower seal", 18), asked("q6", "March", 38)]),
        ],
    )
    context = questions(tmp_path, model, uri)
    _, report = prepared(context)
    assert report.detected == "SQuAD JSON"
    assert (
        "2 answers are not at answer_start, and moved to the only place of their text: train.json:2 (q2), "
        "train.json:5 (q5)" in report.notes
    )
    for example in open_split(stored(context), "train").to_pylist():
        texts = [example["context"][start:end] for start, end in zip(*2 * [iter(example["answer_spans"])], strict=True)]
        assert texts == json.loads(example["answers"])


def test_squad_2_has_questions_without_an_answer_and_plausible_answers_are_none(tmp_path: Path, model: str) -> None:
    plausible = {"is_impossible": True, "plausible_answers": [{"text": "Monday", "answer_start": 25}]}
    uri = squad(tmp_path / "train.json", [(VALVE, [asked("a", "Monday", 25), asked("b", None, **plausible)])], "v2.0")
    context = questions(tmp_path, model, uri)
    _, report = prepared(context)
    assert report.splits["train"].label_counts == {"answer": 1, "no answer": 1}
    last = open_split(stored(context), "train").to_pylist()[1]
    assert (last["answers"], last["starts"], last["id"]) == ("[]", last["null_positions"], "b")
    assert not any("every question gets an answer" in note for note in report.notes)


def test_a_validation_split_without_such_a_question_is_noted(tmp_path: Path, model: str) -> None:
    train = squad(tmp_path / "train.json", [(VALVE, [asked("a", "Monday", 25), asked("b", None)])], "v2.0")
    validation = squad(tmp_path / "validation.json", [(VALVE, [asked("c", "Monday", 25)])])
    dataset = {"validation": {"uri": validation}, "test": {"uri": train, "minimumExamples": 1}}
    dataset["cleaning"] = {"deduplicate": "None"}
    _, report = prepared(questions(tmp_path, model, train, dataset=dataset))
    assert (
        "every question gets an answer, also the 1 of the test split without one, because the validation split has no "
        "such question, by which the threshold is chosen: add some to it"
    ) in report.notes


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_have_answers_as_text_or_json(tmp_path: Path, model: str, kind: str) -> None:
    path = tmp_path / f"train.{kind}"
    answers = {"text": ["Pump B2"], "answer_start": [0]}
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["question", "context", "answers"])
            writer.writerow(["What leaks?", PUMP, "Pump B2"])
            writer.writerow(["What leaks now?", PUMP, json.dumps(answers)])
            writer.writerow(["Who?", PUMP, ""])
    else:
        rows = [
            row(answers=answers),
            row(question="Now?", answers=answers),
            row(answers={"text": [], "answer_start": []}),
        ]
        pq.write_table(pa.Table.from_pylist(rows), path)
    _, report = prepared(questions(tmp_path, model, path.as_uri()))
    assert report.splits["train"].label_counts == {"answer": 2, "no answer": 1}


def test_splits_keep_the_questions_of_a_context_together(tmp_path: Path, model: str) -> None:
    context = questions(tmp_path, model, json_lines(tmp_path / "train.jsonl", many(40)), dataset={})
    prepared(context)
    contexts = {name: set(open_split(stored(context), name)["context"].to_pylist()) for name in ("train", "test")}
    rows = {name: len(open_split(stored(context), name)) for name in contexts}
    assert not contexts["train"] & contexts["test"]
    assert rows == {name: 3 * len(found) for name, found in contexts.items()}


def test_splits_of_squad_keep_the_questions_of_a_title_together(tmp_path: Path, model: str) -> None:
    paragraphs = [(f"Machine {number}. {PUMP}", [asked(f"q{number}", "Pump B2", 11)]) for number in range(10, 70)]
    context = questions(tmp_path, model, squad(tmp_path / "train.json", paragraphs), dataset={})
    prepared(context)
    names = {split: open_split(stored(context), split)["id"].to_pylist() for split in ("train", "validation", "test")}
    for found in names.values():
        assert found
        assert {int(name[1:]) ^ 1 for name in found} == {int(name[1:]) for name in found}


def test_one_context_cannot_be_divided_into_splits(tmp_path: Path, model: str) -> None:
    rows = [row(question=f"Question {number}?") for number in range(60)]
    failure = refused(questions(tmp_path, model, json_lines(tmp_path / "train.jsonl", rows), dataset={}))
    assert failure.reason is Reason.BAD_DATA
    assert "because rows of one text or title stay together, and train has 1 of them" in failure.message


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(question="")], "train.jsonl:1: column 'question' is empty; fill it in or remove the row"),
        ([row(), row(context=" ")], "train.jsonl:2: column 'context' is empty"),
        ([row(), {"question": "What?", "answers": []}], "train.jsonl:2: column 'context' is missing"),
        ([row(answers=["March 3"])], "train.jsonl:1: the answer 'March 3' is not in its context; copy it from there"),
        (
            [row(answers=["eaks"], id=7)],
            "train.jsonl:1: the answer 'eaks' stands only inside a word of its context; take ",
        ),
        ([{"question": "What?", "context": PUMP}], "has the column 'answers': set dataset.columns.answers"),
        ([row(answers=[])], "No question of "),
    ],
)
def test_invalid_questions_are_refused_with_their_line(
    tmp_path: Path, model: str, rows: list[dict[str, Any]], message: str
) -> None:
    failure = refused(questions(tmp_path, model, json_lines(tmp_path / "train.jsonl", rows)))
    assert failure.reason is Reason.BAD_DATA
    assert message in failure.message


def test_a_table_without_the_column_of_the_answers_is_refused(tmp_path: Path, model: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(f"question,context,answer\nWhat?,{PUMP},Pump B2\n")
    failure = refused(questions(tmp_path, model, path.as_uri()))
    assert "column 'answers' is missing" in failure.message
    assert "dataset.columns.answers" in failure.message


def test_an_answer_that_is_whole_in_no_window_is_refused_with_its_line(tmp_path: Path, model: str) -> None:
    long = row(context=f"{PUMP} {VALVE}", answers=[f"{PUMP} {VALVE}"])
    context = questions(
        tmp_path,
        model,
        json_lines(tmp_path / "train.jsonl", [long]),
        training={"maxSequenceLength": 16},
    )
    failure = refused(context)
    assert "train.jsonl:1: the answer 'Pump B2 leaks" in failure.message
    assert "is whole in no window" in failure.message


def test_spans_of_a_decoder_are_refused(tmp_path: Path) -> None:
    directory = a_chat_model(tmp_path / "model", None)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForQuestionAnswering"]}))
    failure = refused(questions(tmp_path, directory.as_uri(), json_lines(tmp_path / "train.jsonl", [row()])))
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert "LlamaForQuestionAnswering" in failure.message
    assert "answers are extracted with encoders such as BERT" in failure.message


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"evaluation": {"generation": {"maxNewTokens": 9}}}, "evaluation.generation"),
        ({"evaluation": {"duringTraining": {}}}, "evaluation.duringTraining"),
        ({"task": {"instruction": "Answer."}}, "task.instruction"),
    ],
)
def test_settings_of_generation_are_refused_for_an_encoder(
    spec: dict[str, Any], field: str, tmp_path: Path, model: str
) -> None:
    failure = refused(questions(tmp_path, model, json_lines(tmp_path / "train.jsonl", many(4)), **spec))
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message.startswith(f"{field} is only valid for a decoder or a model with an encoder and a decoder")
