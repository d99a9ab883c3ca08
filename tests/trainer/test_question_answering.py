"""QuestionAnswering with tiny encoders: all stages, on questions that are learned by heart."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import StageFailure
from finetune_api.stage import EvaluateResult, Stage
from finetune_trainer.predict import Request, predict
from tests.trainer.qa_fixtures import heart_job
from tests.trainer.stages import TinyJob, write_jsonl

ENDS = [
    ("Berlin is the largest city of Germany.", "Berlin"),
    ("Coal is black", "Coal"),
    ("The largest lake of the region is Baikal", "Baikal"),
    ("Paris", "Paris"),
    ("7 tonnes were shipped", "7 tonnes"),
    ("They paid in 1999", "1999"),
    ("Ångström was a Swede.", "Ångström"),
    ("It is made of oak", "oak"),
    ("“Moby-Dick” came out in 1851", "“Moby-Dick”"),
]
REWRITTEN = [
    ("Price on request… call Ms Weiß now.", "Ms Weiß"),
    ("The ﬁrst ﬂoor is closed; use Gate ３.", "Gate ３"),
    ("Cafe\u0301 Noir opens at nine.", "Cafe\u0301 Noir"),
    ("See form ① or form ②.", "form ②"),
    ("The\u200b key is under the mat.", "under the mat"),
    ("東京タワーは333メートルです。", "333メートル"),
    ("Room\u00a012 is free.", "Room\u00a012"),
    ("NAÏVE and naïve differ.", "naïve"),
]
WORDS = [f"w{number:02}" for number in range(60)]


def rows_of(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Question {number}?",
            "context": context,
            "answers": {"text": [answer], "answer_start": [context.rindex(answer)]},
        }
        for number, (context, answer) in enumerate(pairs)
    ]


def long_rows() -> list[dict[str, Any]]:
    """Questions about contexts of three windows, a third of them without an answer."""
    rows = []
    for number in range(12):
        words = [*WORDS[number : number + 40], *WORDS[:number]]
        answer = " ".join(words[3 * number : 3 * number + 2])
        rows.append(
            {
                "id": f"q{number:02}",
                "question": f"find {words[3 * number]}" if number % 3 else f"find z{number}",
                "context": " ".join(words),
                "answers": [answer] if number % 3 else [],
            }
        )
    return rows


def through(job: TinyJob, last: Stage) -> dict[str, Any]:
    """Run all stages to ``last``, and return evaluation.json."""
    for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH):
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
        if stage is Stage.EVALUATE:
            assert isinstance(outcome.report.result, EvaluateResult)
            assert outcome.report.result.evaluation.span_decoding is not None
        if stage is last:
            break
    return job.evaluation


def scores(evaluation: dict[str, Any], model: str = "tuned") -> dict[str, float]:
    return {metric["name"]: metric[model] for metric in evaluation["metrics"]}


def test_answers_at_both_ends_of_the_context_are_learned(tmp_path: Path) -> None:
    job = heart_job(tmp_path, rows_of(ENDS), "bytes")
    evaluation = through(job, Stage.EVALUATE)
    assert scores(evaluation) == {"squad_f1": 1, "exact_match": 1, "has_answer_f1": 1}
    report = json.loads((job.revision / "prepared" / "data.json").read_text())
    assert report["splits"]["train"]["label_counts"] == {"answer": len(ENDS)}
    assert evaluation["spanDecoding"] == {"longestAnswer": 30}


def test_predicted_answers_are_slices_of_the_context_as_it_was_written(tmp_path: Path) -> None:
    job = heart_job(tmp_path, rows_of(REWRITTEN), "unigram")
    assert scores(through(job, Stage.EVALUATE))["exact_match"] == 1
    for row in job.predictions:
        assert row["tuned"] == row["context"][slice(*row["tunedSpan"])] == row["answers"][0]


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A published model for contexts of several windows, some without an answer."""
    training = {
        "maxSteps": 120,
        "evaluateEverySteps": 60,
        "batchSize": 12,
        "learningRate": 3e-3,
        "maxSequenceLength": 24,
    }
    job = heart_job(
        tmp_path_factory.mktemp("windowed"),
        long_rows(),
        "words",
        task={"type": "QuestionAnswering", "windowOverlap": 4},
        training=training,
    )
    through(job, Stage.PUBLISH)
    return job


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A published adapter, for a base model that has a span head."""
    job = heart_job(
        tmp_path_factory.mktemp("headed"),
        rows_of(ENDS),
        "bert",
        head=True,
        method={"type": "LoRA"},
        evaluation={"publishWorse": True},  # It hardly learns in so few steps.
    ).changed(training={"maxSteps": 4})
    through(job, Stage.PUBLISH)
    return job


@pytest.fixture(params=["windowed", "headed"])
def published(request: pytest.FixtureRequest) -> TinyJob:
    job: TinyJob = request.getfixturevalue(request.param)
    return job


def test_no_answer_has_a_threshold_for_each_model(windowed: TinyJob) -> None:
    evaluation = json.loads((windowed.revision / "artifact" / "evaluation.json").read_text())
    assert scores(evaluation)["squad_f1"] > 0.9
    assert set(scores(evaluation)) == {"squad_f1", "exact_match", "has_answer_f1", "no_answer_f1"}
    assert evaluation["baseline"]["kind"] in ("LinearProbe", "NoAnswer")
    assert scores(evaluation, "baseline")["squad_f1"] >= 1 / 3
    decoding = evaluation["spanDecoding"]
    assert isinstance(decoding["threshold"], float)
    assert decoding.get("baselineThreshold") != decoding["threshold"]


def test_the_data_report_counts_windows_and_kinds_of_questions(windowed: TinyJob) -> None:
    report = json.loads((windowed.revision / "prepared" / "data.json").read_text())
    assert report["splits"]["test"]["label_counts"] == {"answer": 8, "no answer": 4}
    assert any(note.startswith("36 contexts are longer than the 24 tokens of a row") for note in report["notes"])


def test_the_report_marks_the_answers_in_their_contexts(windowed: TinyJob) -> None:
    page = (windowed.revision / "artifact" / "report.html").read_text()
    assert '<mark class="reference' in page
    assert re.search('<mark class="[a-z ]*tuned"', page)
    assert '<span class="quiet">no answer</span>' in page
    assert "<script" not in page


def test_the_program_of_the_card_gives_the_measured_answers(
    published: TinyJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = published.revision / "artifact"
    if not (artifact / "base").exists():
        (artifact / "base").symlink_to(published.root / "base")
    monkeypatch.chdir(artifact)
    program = (artifact / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = program.replace("path/to/base", "base")
    assert ("PeftModel" in program) == (artifact / "adapter_config.json").exists()
    for row in published.predictions[:6]:
        code = program.replace('"A question"', json.dumps(row["question"]))
        code = code.replace('"The text that has the answer"', json.dumps(row["context"]))
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
        assert output.getvalue() == row["tuned"] + "\n"


def test_predictions_of_the_artifact_are_those_of_the_evaluation(published: TinyJob, tmp_path: Path) -> None:
    expected = published.predictions
    rows = [{"question": row["question"], "context": row["context"]} for row in expected]
    request = Request(artifact=(published.revision / "artifact").as_uri(), rows=rows)
    found = [one.document for one in predict(request, tmp_path).predictions]
    assert [(one["answer"], one["span"]) for one in found] == [(row["tuned"], row["tunedSpan"]) for row in expected]
    assert ("" in [one["answer"] for one in found]) == ("threshold" in published.evaluation["spanDecoding"])


def test_question_without_its_context_is_refused_by_its_number(windowed: TinyJob, tmp_path: Path) -> None:
    request = Request(artifact=(windowed.revision / "artifact").as_uri(), rows=["What is it?"])
    with pytest.raises(StageFailure, match="row 1: a question needs its context; write an object with 'question' and"):
        predict(request, tmp_path)


def test_a_base_model_with_a_span_head_is_the_baseline_itself(headed: TinyJob) -> None:
    assert headed.evaluation["baseline"]["kind"] == "BaseModel"


def test_a_metric_of_questions_that_the_test_split_lacks_is_refused_in_prepare(tmp_path: Path) -> None:
    """Also if the training data has such questions."""
    answered = rows_of(ENDS)
    job = heart_job(tmp_path, answered, evaluation={"metrics": ["squad_f1", "no_answer_f1"]})
    unanswered = answered[0] | {"question": answered[1]["question"], "answers": {"text": [], "answer_start": []}}
    train = write_jsonl(tmp_path / "more.jsonl", [*answered, unanswered])
    outcome = job.changed(dataset={"train": {"uri": train}}).run(Stage.PREPARE)
    assert outcome.code == 65
    assert outcome.message.startswith(
        "The evaluation cannot measure no_answer_f1, because the test split has no question with no answer: add such "
    )
