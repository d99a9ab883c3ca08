"""A teacher in the Hugging Face layout that generates answers, in the stage respond."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune_api.failures import ExitCode, Reason, StageFailure
from finetune_api.stage import PrepareResult, RespondResult, Stage
from finetune_trainer.evaluate.generation import Generator
from finetune_trainer.predict import Request, predict
from finetune_trainer.splits import open_split
from finetune_trainer.stages import prepare, respond
from tests.trainer.pairs_fixtures import SOURCES, by_heart
from tests.trainer.prepare_fixtures import a_context, json_lines
from tests.trainer.stages import TinyJob, instruction_job, write_jsonl
from tests.trainer.tiny_models import save_bert, save_llama

TEXTS = [f"{text} today there" for text in SOURCES]
"""Of these, the teacher has learned the summaries."""


def taught(job: TinyJob, teacher: str, name: str, tokens: int = 6) -> TinyJob:
    """The job with a teacher that generates, under another name."""
    distillation = {"mode": "Responses", "teacher": {"uri": teacher, "maxNewTokens": tokens}, "maxFailed": 1}
    return TinyJob(job.root, {**job.spec, "distillation": distillation}, name)


def answers_of(job: TinyJob) -> list[str]:
    """The keys of the stored answers."""
    files = (job.revision.parent / "answers").glob("*.jsonl")
    return [json.loads(line)["key"] for path in files for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", params=["t5", "llama"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A job that has published a whole model."""
    return by_heart(tmp_path_factory.mktemp("teacher"), request.param, "Full")


@pytest.fixture(scope="module")
def job(teacher: TinyJob, tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A student with its own tokenizer, prompts without answers, and test rows with references."""
    root = tmp_path_factory.mktemp("student")
    save_llama(root / "base")
    test = [{"text": text, "summary": " ".join(text.split()[-3:])} for text in TEXTS[:6]]
    spec = {
        **teacher.spec,
        "model": {"uri": (root / "base").as_uri()},
        "dataset": {
            "train": {"uri": write_jsonl(root / "train.jsonl", [{"text": text} for text in TEXTS[8:]])},
            "validation": {"uri": write_jsonl(root / "validation.jsonl", [{"text": text} for text in TEXTS[6:8]])},
            "test": {"uri": write_jsonl(root / "test.jsonl", test), "minimumExamples": 1},
        },
        "training": {**teacher.spec["training"], "maxSteps": 2, "evaluateEverySteps": 2},
        "output": {"uri": (root / "storage").as_uri()},
    }
    found = taught(TinyJob(root, spec), teacher.artifact.as_uri(), "student")
    for stage in (Stage.PREPARE, Stage.RESPOND, Stage.TRAIN, Stage.EVALUATE):
        outcome = found.run(stage)
        assert outcome.code == ExitCode.DONE, outcome.log
        if stage is Stage.PREPARE:
            assert isinstance(outcome.report.result, PrepareResult)
            assert outcome.report.result.responses is None
            assert "the teacher has up to 24 questions to answer" in " ".join(outcome.report.result.notes)
            assert not (found.revision / "prepared").exists()
            assert {path.name for path in (found.revision / "unanswered").iterdir()} == {"data.json", "manifest.json"}
    return found


class TestAnswers:
    def test_are_those_of_predict_with_the_teacher(self, job: TinyJob, teacher: TinyJob, tmp_path: Path) -> None:
        rows = open_split(job.revision / "prepared", "train").to_pylist()
        assert len(rows) > 10
        asked = [row["prompt"] for row in rows]
        assert set(asked) <= set(TEXTS[8:])
        found = predict(Request(artifact=teacher.artifact.as_uri(), rows=asked), tmp_path).predictions
        assert [row["reference"] for row in rows] == [one.document["summary"].strip() for one in found]

    def test_are_counted_in_the_report(self, job: TinyJob) -> None:
        report = json.loads((job.revision / "prepared" / "data.json").read_text())
        answers = report["responses"]["answers"]
        assert answers["used"] + answers["leftOut"] == 18
        assert answers["used"] > 12
        assert answers["requests"] is None
        assert report["teacher"]["model"]["parameters"] > 1000
        page = (job.revision / "evaluated" / "report.html").read_text()
        assert "Speed of the teacher" in page
        assert "several requests" not in page

    def test_to_the_test_split_measure_the_teacher(self, job: TinyJob, teacher: TinyJob) -> None:
        of_teacher = {row["prompt"]: row["tuned"] for row in teacher.predictions}
        assert len(job.predictions) == 6
        assert all(row["teacher"].strip() == of_teacher[row["prompt"]].strip() for row in job.predictions)
        assert job.evaluation["metrics"][0]["teacher"] > 0.6

    def test_are_generated_once(self, job: TinyJob) -> None:
        """Another attempt takes what is stored; without the prepared data, it takes the answers."""
        outcome = job.run(Stage.RESPOND, attempt=2)
        assert "reusing" in outcome.log
        shutil.rmtree(job.revision / "prepared")
        shutil.rmtree(job.revision / "trained")
        before = len(answers_of(job))
        outcome = job.run(Stage.RESPOND, attempt=3)
        assert outcome.code == ExitCode.DONE, outcome.log
        assert isinstance(outcome.report.result, RespondResult)
        assert outcome.report.result.responses.kept == before == len(answers_of(job))


def test_changed_data_starts_another_revision(job: TinyJob) -> None:
    path = job.root / "validation.jsonl"
    text = path.read_text()
    path.write_text(text + json.dumps({"text": "another text"}) + "\n")
    outcome = job.run(Stage.RESPOND, attempt=4)
    path.write_text(text)
    assert outcome.report.error
    assert outcome.report.error.reason is Reason.REVISION_TAKEN


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stage_that_was_ended_goes_on_with_what_it_has_generated(tmp_path: Path, number: signal.Signals) -> None:
    """The teacher has learned nothing: most of its answers are cut, which takes a while."""
    job = instruction_job(tmp_path, 500)
    save_llama(tmp_path / "teacher")
    untaught = taught(job, (tmp_path / "teacher").as_uri(), "ended", tokens=100)
    assert untaught.run(Stage.PREPARE).code == ExitCode.DONE
    with untaught.start(Stage.RESPOND) as running:
        running.wait_until(lambda: len(answers_of(untaught)) >= 16)
        (worker,) = running.worker_pids()
        os.kill(worker if number is signal.SIGKILL else running.process.pid, number)
        outcome = running.wait()
    assert outcome.report.error
    assert outcome.report.error.reason is (Reason.KILLED if number is signal.SIGKILL else Reason.STOPPED)
    before = set(answers_of(untaught))
    outcome = untaught.run(Stage.RESPOND, attempt=2)
    assert outcome.code == ExitCode.DONE, outcome.log
    assert isinstance(outcome.report.result, RespondResult)
    assert outcome.report.result.responses.kept == len(before)
    assert "the answer is cut at the limit of tokens" in outcome.report.result.responses.problems[0]
    after = answers_of(untaught)
    assert before < set(after)
    assert len(after) == len(set(after))  # None was generated twice.


def test_an_encoder_is_refused_before_the_data_is_read(tmp_path: Path) -> None:
    job = instruction_job(tmp_path, 20)
    save_bert(tmp_path / "teacher")
    outcome = taught(job, (tmp_path / "teacher").as_uri(), "encoder").run(Stage.PREPARE)
    assert outcome.code == ExitCode.BAD_CONFIGURATION
    assert outcome.report.error
    assert outcome.report.error.message.startswith("distillation.teacher: ")
    assert "reading the train data" not in outcome.log


def test_a_teacher_that_does_not_fit_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_llama(tmp_path / "base")
    rows = json_lines(tmp_path / "train.jsonl", [{"prompt": text, "completion": "fruit"} for text in TEXTS])
    teacher = {"mode": "Responses", "teacher": {"uri": (tmp_path / "base").as_uri()}}
    context = a_context(
        tmp_path,
        (tmp_path / "base").as_uri(),
        {"type": "InstructionTuning"},
        {"train": {"uri": rows}},
        distillation=teacher,
    )
    prepare.run(context)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Generator, "generated", full)
    (tmp_path / "respond").mkdir()
    with pytest.raises(StageFailure, match=r"^distillation.teacher: file.* and one prompt do not fit") as failure:
        respond.run(replace(context, workspace=tmp_path / "respond"))
    assert failure.value.reason is Reason.OUT_OF_MEMORY
