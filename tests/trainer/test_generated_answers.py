"""QuestionAnswering with models that generate: all stages, on questions that are learned by heart."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from finetune_api.failures import Reason
from finetune_trainer.context import StageContext
from finetune_trainer.predict import Request, predict
from finetune_trainer.splits import open_split
from tests.trainer.code_models import save_llama_with
from tests.trainer.pair_models import save_t5, word_tokenizer
from tests.trainer.prepare_fixtures import a_context, json_lines, prepared, refused, stored
from tests.trainer.stages import TinyJob, write_jsonl
from tests.usual_stages import STAGES

WORDS = [f"w{number:02}" for number in range(48)]
LENGTH = {"t5": 34, "llama": 66}
"""The sequence length, which has room for about 30 words of a context of 40."""
OTHER = ["question:", "context:", "Context:", "Question:", "find", "unanswerable", "Answer", "closed", "mill", "May"]


def rows() -> list[dict[str, Any]]:
    """Questions whose answers stand ever later in a context of 40 words; every third has none."""
    found = []
    for number in range(12):
        words = [*WORDS[number:], *WORDS[:number]][:40]
        place = 3 * number + 1
        key = words[place] if number % 3 else f"z{number}"
        answers = [" ".join(words[place : place + 2]), "another answer"] if number % 3 else []
        found.append({"id": f"q{number:02}", "question": f"find {key}", "context": " ".join(words), "answers": answers})
    return found


def save_model(directory: Path, kind: str) -> str:
    """A tiny model whose tokenizer has one token a word; its address."""
    texts = [f"{row['question']} {row['context']} z0 z3 z6 z9" for row in rows()] + OTHER
    if kind == "t5":
        save_t5(directory, texts)
        return directory.as_uri()
    tokenizer = word_tokenizer(texts)
    save_llama_with(directory, tokenizer, positions=128)
    return directory.as_uri()


@pytest.fixture(scope="module", params=["t5", "llama"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    kind = request.param
    root = tmp_path_factory.mktemp(kind)
    source = {"uri": write_jsonl(root / "rows.jsonl", rows())}
    spec = {
        "model": {"uri": save_model(root / "base", kind)},
        "task": {"type": "QuestionAnswering"},
        "dataset": {"train": source, "validation": source, "test": source, "cleaning": {"deduplicate": "None"}},
        "method": {"type": "Full"},
        "training": {
            "maxSteps": 100,
            "evaluateEverySteps": 50,
            "batchSize": 6,
            "learningRate": 5e-3,
            "maxSequenceLength": LENGTH[kind],
        },
        "evaluation": {"generation": {"maxNewTokens": 6}, "publishWorse": True},
        "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
        "output": {"uri": (root / "storage").as_uri(), "keep": {"preparedData": True}},
    }
    job = TinyJob(root, spec, kind)
    for stage in STAGES:
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job


class TestGeneratedAnswers:
    def test_are_learned_with_and_without_an_answer(self, tuned: TinyJob) -> None:
        scores = {metric["name"]: metric for metric in tuned.evaluation["metrics"]}
        assert list(scores) == ["squad_f1", "exact_match", "has_answer_f1", "no_answer_f1"]
        assert scores["squad_f1"]["tuned"] > 0.8
        assert scores["no_answer_f1"]["tuned"] == 1
        assert scores["squad_f1"]["baseline"] < 0.5
        assert tuned.evaluation["baseline"]["kind"] == "BaseModel"
        unanswered = [row for row in tuned.predictions if not row["answers"]]
        assert [row["tuned"] for row in unanswered] == [""] * 4

    def test_have_their_place_in_the_context(self, tuned: TinyJob) -> None:
        for row in tuned.predictions:
            if row["tuned"] and row["tunedSpan"]:
                assert row["context"][slice(*row["tunedSpan"])] == row["tuned"]
        assert any(row["tunedSpan"] for row in tuned.predictions)

    def test_are_marked_in_the_report(self, tuned: TinyJob) -> None:
        report = (tuned.artifact / "report.html").read_text()
        assert '<mark class="reference tuned"' in report
        assert "“unanswerable” counts as no answer." in report
        assert "Answers were decoded greedily, with at most 6 new tokens" in report

    def test_of_predict_are_those_of_the_evaluation(self, tuned: TinyJob, tmp_path: Path) -> None:
        asked = [{name: row[name] for name in ("id", "question", "context")} for row in tuned.predictions]
        found = predict(Request(artifact=tuned.artifact.as_uri(), rows=asked), tmp_path).predictions
        assert [one.document["answer"] for one in found] == [row["tuned"] for row in tuned.predictions]
        assert found[0].text == "(no answer)"

    def test_of_the_model_card_are_those_of_the_evaluation(
        self, tuned: TinyJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The program on the card, word for word but for question and context."""
        row = next(row for row in tuned.predictions if row["tuned"])
        program = tuned.usage
        kept = learned_contexts(tuned, "test")[row["id"]]
        changed = program.replace("When did the mill close?", row["question"]).replace(
            "The mill at the river closed in May. Forty people lost their jobs.", kept
        )
        assert changed != program
        monkeypatch.chdir(tuned.artifact)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(changed, "README.md", "exec"), {})
        assert output.getvalue().strip() == row["tuned"]


def learned_contexts(tuned: TinyJob, split: str) -> dict[str, str]:
    """The contexts as the model reads them, by the id of their question."""
    table = open_split(tuned.revision / "prepared", split)
    tokenizer = AutoTokenizer.from_pretrained(tuned.root / "base")
    marks = ("context: ", "") if tuned.name == "t5" else ("Context: ", " Question:")
    contexts = {}
    for name, ids in zip(table["id"].to_pylist(), table["input_ids"].to_pylist(), strict=True):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        start = text.index(marks[0]) + len(marks[0])
        contexts[name] = text[start : text.index(marks[1], start)] if marks[1] else text[start:]
    return contexts


class TestLongContexts:
    def test_are_cut_around_the_answer_in_training_only(self, tuned: TinyJob) -> None:
        training, evaluated = (learned_contexts(tuned, split) for split in ("train", "test"))
        moved = 0
        for row in rows():
            assert row["context"].startswith(evaluated[row["id"]])
            assert training[row["id"]] in row["context"]
            if row["answers"]:
                assert row["answers"][0] in training[row["id"]]
            moved += training[row["id"]] != evaluated[row["id"]]
        assert 0 < moved < len(rows())

    def test_are_reported(self, tuned: TinyJob) -> None:
        report = json.loads((tuned.revision / "prepared" / "data.json").read_text())
        assert report["splits"]["test"]["truncated"] == len(rows())
        assert any("training questions that are cut around their answer: " in note for note in report["notes"])
        assert any("in the part of the context for which there is no room" in note for note in report["notes"])

    def test_have_labels_that_are_the_answer(self, tuned: TinyJob) -> None:
        table = open_split(tuned.revision / "prepared", "train")
        tokenizer = AutoTokenizer.from_pretrained(tuned.root / "base")
        for row, labels in zip(rows(), table["labels"].to_pylist(), strict=True):
            learned = tokenizer.decode([label for label in labels if label >= 0], skip_special_tokens=True)
            assert learned == (row["answers"][0] if row["answers"] else "unanswerable")


def a_job(root: Path, kind: str, train: list[dict[str, Any]], **spec: Any) -> StageContext:
    source = {"uri": json_lines(root / "train.jsonl", train)}
    dataset = {
        "train": source,
        "validation": source,
        "test": {**source, "minimumExamples": 1},
        "cleaning": {"deduplicate": "None"},
    }
    task = {"type": "QuestionAnswering", **spec.pop("task", {})}
    settings = {"training": {"maxSequenceLength": LENGTH[kind]}, "evaluation": {"generation": {"maxNewTokens": 6}}}
    return a_context(root, save_model(root / "model", kind), task, dataset, **(settings | spec))


@pytest.mark.parametrize("kind", ["t5", "llama"])
class TestRows:
    def test_whose_answer_is_not_in_the_context_are_learned_and_named(self, kind: str, tmp_path: Path) -> None:
        changed = [row | {"answers": ["w99 z0"]} if row["id"] == "q01" else row for row in rows()]
        _, report = prepared(a_job(tmp_path, kind, changed))
        assert report.splits["train"].label_counts == {"answer": 8, "no answer": 4}
        note = next(note for note in report.notes if "word for word" in note)
        assert "train.jsonl:2 (q01)" in note

    def test_with_the_text_for_no_answer_as_an_answer_are_refused(self, kind: str, tmp_path: Path) -> None:
        failure = refused(a_job(tmp_path, kind, [*rows(), rows()[1] | {"answers": ["Unanswerable"]}]))
        assert failure.reason is Reason.BAD_DATA
        assert "train.jsonl:13: the answer 'Unanswerable' is what the model learns to write" in failure.message
        assert "(question q01)" in failure.message

    def test_with_a_question_that_leaves_no_room_are_refused(self, kind: str, tmp_path: Path) -> None:
        failure = refused(a_job(tmp_path, kind, [*rows(), rows()[1] | {"question": "find " + "w01 " * 70}]))
        assert "train.jsonl:13: beside the question there is no room for its context" in failure.message

    def test_in_several_files_may_all_be_invalid_in_a_batch(self, kind: str, tmp_path: Path) -> None:
        failure = refused(a_job(tmp_path, kind, [rows()[1] | {"answers": ["unanswerable"]}]))
        assert "train.jsonl:1: the answer" in failure.message


def test_windows_are_refused(tmp_path: Path) -> None:
    failure = refused(a_job(tmp_path, "t5", rows(), task={"windowOverlap": 8}))
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message.startswith("task.windowOverlap is only valid for an encoder, and ")


def test_the_instruction_is_the_prefix_of_t5(tmp_path: Path) -> None:
    context = a_job(tmp_path, "t5", rows(), task={"instruction": "find Answer:"})
    assert prepared(context)[1].prefix == "find Answer: "
    table = open_split(stored(context), "test")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.decode(table["input_ids"][1].as_py()).startswith("find <unk> question: find w")
