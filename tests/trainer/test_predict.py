"""``finetune_trainer predict``: the predictions of a published artifact are those of the evaluation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import Stage
from finetune_trainer.predict import Request, predict
from finetune_trainer.stages.evaluate import run as evaluate
from finetune_trainer.stages.publish import run as publish
from tests.trainer.evaluation_fixtures import classification_job
from tests.trainer.stages import TinyJob


def published(job: TinyJob, name: str) -> TinyJob:
    named = job.named(name)
    for stage in (Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH):
        outcome = named.run(stage)
        assert outcome.code == 0, outcome.log
    return named


def evaluated(revision: Path) -> list[dict[str, Any]]:
    """The predictions of the evaluation."""
    return [json.loads(line) for line in (revision / "evaluated" / "predictions.jsonl").read_text().splitlines()]


def called(**request: Any) -> subprocess.CompletedProcess[str]:
    """The answer of the command."""
    command = [sys.executable, "-m", "finetune_trainer", "predict"]
    return subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def classifier(classification: TinyJob) -> TinyJob:
    return published(classification, "predicted")


@pytest.fixture(scope="module")
def chat(instruction: TinyJob) -> TinyJob:
    return published(instruction, "predicted")


class TestEqualsTheEvaluation:
    def test_labels_of_a_classifier(self, classifier: TinyJob) -> None:
        expected = evaluated(classifier.revision)
        artifact = (classifier.revision / "artifact").as_uri()
        answer = called(artifact=artifact, rows=[row["text"] for row in expected])
        assert answer.returncode == 0, answer.stderr
        found = [one["document"] for one in json.loads(answer.stdout)["predictions"]]
        assert [(one["text"], one["label"]) for one in found] == [(row["text"], row["tuned"]) for row in expected]
        assert all(sum(one["scores"].values()) == pytest.approx(1, abs=1e-4) for one in found)
        assert next(iter(found[0]["scores"])) == found[0]["label"]

    def test_answers_of_a_chat_model(self, chat: TinyJob, tmp_path: Path) -> None:
        expected = evaluated(chat.revision)
        artifact = (chat.revision / "artifact").as_uri()
        found = predict(Request(artifact=artifact, rows=[row["prompt"] for row in expected]), tmp_path).predictions
        assert [(one.document["prompt"], one.text) for one in found] == [
            (row["prompt"], row["tuned"]) for row in expected
        ]

    def test_conversations_whose_last_answer_is_predicted_again(self, chat: TinyJob, tmp_path: Path) -> None:
        expected = evaluated(chat.revision)
        asked = [{"role": "user", "content": row["prompt"]} for row in expected]
        rows = [{"messages": [message, {"role": "assistant", "content": "no"}]} for message in asked]
        rows[0] = {"prompt": expected[0]["prompt"]}
        artifact = (chat.revision / "artifact").as_uri()
        found = predict(Request(artifact=artifact, rows=rows), tmp_path).predictions
        assert [one.text for one in found] == [row["tuned"] for row in expected]

    def test_labels_of_a_model_with_all_weights(self, tmp_path: Path) -> None:
        job = classification_job(tmp_path, full=True, steps=20)
        evaluate(job.context(Stage.EVALUATE))
        artifact = publish(job.context(Stage.PUBLISH)).uri
        shutil.rmtree(tmp_path / "base")
        expected = evaluated(tmp_path / "storage/team-a/tiny/r1")
        (tmp_path / "scratch").mkdir()
        found = predict(
            Request(artifact=artifact, rows=[row["text"] for row in expected]), tmp_path / "scratch"
        ).predictions
        assert [one.document["label"] for one in found] == [row["tuned"] for row in expected]


class TestRefusals:
    def test_row_without_text_is_named_by_its_number(self, classifier: TinyJob) -> None:
        artifact = (classifier.revision / "artifact").as_uri()
        answer = called(artifact=artifact, rows=["a text", {"texts": "another"}])
        assert answer.returncode == 65
        assert json.loads(answer.stdout)["error"].startswith("row 2: column 'text' is missing (columns: 'texts'); set")

    def test_conversation_that_does_not_fit_is_refused(self, chat: TinyJob, tmp_path: Path) -> None:
        artifact = (chat.revision / "artifact").as_uri()
        with pytest.raises(StageFailure, match=r"row 1: the prompt has \d+ tokens, but the model supports"):
            predict(Request(artifact=artifact, rows=["it " * 5000]), tmp_path)

    def test_base_model_is_found_elsewhere_and_its_digest_checked(self, classifier: TinyJob, tmp_path: Path) -> None:
        moved, other = tmp_path / "moved", tmp_path / "other"
        shutil.copytree(classifier.root / "base", moved)
        shutil.copytree(classifier.root / "base", other)
        (other / "config.json").write_text((other / "config.json").read_text() + "\n")
        artifact = (classifier.revision / "artifact").as_uri()
        hidden = classifier.root / "hidden"
        (classifier.root / "base").rename(hidden)
        try:
            with pytest.raises(StageFailure, match="name its place with --base-model") as caught:
                predict(Request(artifact=artifact, rows=["x"]), tmp_path / "1")
            assert caught.value.reason is Reason.NOT_FOUND
            assert predict(Request(artifact=artifact, rows=["x"], base_model=moved.as_uri()), tmp_path / "2")
            with pytest.raises(StageFailure, match="is not the base model of the artifact"):
                predict(Request(artifact=artifact, rows=["x"], base_model=other.as_uri()), tmp_path / "3")
        finally:
            hidden.rename(classifier.root / "base")

    def test_other_artifact_than_the_job_published_is_refused(self, classifier: TinyJob, tmp_path: Path) -> None:
        artifact = (classifier.revision / "artifact").as_uri()
        with pytest.raises(StageFailure, match="is another artifact than the job published"):
            predict(Request(artifact=artifact, digest="sha256:0", rows=["x"]), tmp_path)
