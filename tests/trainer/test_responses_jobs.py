"""Jobs with a teacher behind an endpoint, as processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import PrepareResult, Stage
from finetune_trainer.evaluate.pairing import digest_of
from tests.endpoint_server import Endpoint, Reply, answer, endpoint, error
from tests.trainer.code_models import byte_level_tokenizer, save_llama_with
from tests.trainer.qa_fixtures import heart_job
from tests.trainer.stages import TinyJob, classification_job, instruction_job, write_jsonl

ROWS = 120


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return instruction_job(tmp_path_factory.mktemp("job"), ROWS)


def taught(job: TinyJob, server: Endpoint, name: str, **endpoint: Any) -> TinyJob:
    """The job with a teacher, under another name."""
    teacher = {"endpoint": {"url": server.url, "model": "m", **endpoint}}
    changed = job.changed(distillation={"mode": "Responses", "teacher": teacher})
    return TinyJob(changed.root, changed.spec, name)


def stored(job: TinyJob) -> int:
    """Number of the answers in storage."""
    return sum(len(path.read_text().splitlines()) for path in (job.revision.parent / "answers").glob("*.jsonl"))


def test_a_prepare_that_is_killed_in_the_middle_asks_nothing_twice_that_was_stored(job: TinyJob) -> None:
    released, requests = threading.Event(), itertools.count(1)

    def respond(*_: object) -> Reply:
        if next(requests) > 40:
            released.wait()
        return answer("it is fruit")

    with endpoint(respond) as server:
        killed = taught(job, server, "killed", maxConcurrency=2)
        with killed.start(Stage.PREPARE) as running:
            try:
                running.wait_until(lambda: stored(killed) > 20)
                (worker,) = running.worker_pids()
                os.kill(worker, signal.SIGKILL)
                outcome = running.wait()
            finally:
                released.set()
        assert outcome.report.error
        assert outcome.report.error.reason is Reason.KILLED
        kept, asked = stored(killed), len(server.asked)
        assert 20 < kept < ROWS
        outcome = killed.run(Stage.PREPARE, attempt=2)
        assert outcome.code == ExitCode.DONE, outcome.log
        assert isinstance(outcome.report.result, PrepareResult)
        answers = outcome.report.result.responses
        assert answers
        assert answers.kept == kept
        assert len(server.asked) - asked == answers.requests == len(server.prompts()) - kept
        # What was under way when it was killed, and the answers of the last moment.
        assert sum(count - 1 for count in server.prompts().values()) == asked - kept


def test_progress_and_key(job: TinyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_SECRET_ENDPOINT_OPENAI_API_KEY", "of the Secret")
    monkeypatch.setenv("OPENAI_API_KEY", "of the environment")
    seen = []
    with endpoint(lambda *_: answer("it is fruit")) as server:
        held = taught(job, server, "progress", maxConcurrency=1)
        with held.start(Stage.PREPARE) as running:
            running.wait_until(
                lambda: (now := running.progress()) is not None and (seen.append(now) or now.unit == "prompts")
            )
            outcome = running.wait()
    assert outcome.code == ExitCode.DONE, outcome.log
    assert (seen[-1].activity, seen[-1].total) == ("asking the teacher", len(server.prompts()))
    assert set(server.keys) == {"Bearer of the Secret"}


@pytest.mark.parametrize(
    ("reply", "code", "wait"),
    [
        (error(401), ExitCode.PERMISSION_DENIED, None),
        (error(404), ExitCode.NOT_FOUND, None),
        (error(429, **{"Retry-After": "3599.5"}), ExitCode.UNAVAILABLE, 3600),
        (error(503, **{"Retry-After": "1e12"}), ExitCode.UNAVAILABLE, 366 * 86400),
    ],
    ids=["401", "404", "429", "503"],
)
def test_exit_codes(job: TinyJob, reply: Reply, code: ExitCode, wait: int | None) -> None:
    with endpoint(lambda *_: reply) as server:
        failed = taught(job, server, f"code-{code}-{wait or 0}")
        outcome = failed.run(Stage.PREPARE)
    assert outcome.code == code, outcome.log
    assert outcome.report.error
    assert outcome.report.error.retry_after_seconds == wait
    assert not (failed.revision / "prepared" / "manifest.json").exists()


def test_the_teacher_is_measured_beside_its_student(job: TinyJob) -> None:
    """From the answers that prepare has asked for: evaluate asks nothing."""
    references = {
        row["messages"][0]["content"]: row["messages"][1]["content"]
        for row in map(json.loads, (job.root / "train.jsonl").read_text().splitlines())
    }

    def respond(prompt: str, _: int) -> Reply:
        right = references[prompt]
        return answer(right, "length") if right.endswith("metal") else answer(right)

    with endpoint(respond) as server:
        measured = taught(job, server, "measured").changed(training={"maxSteps": 2})
        assert measured.run(Stage.PREPARE).code == ExitCode.DONE
    assert measured.run(Stage.TRAIN).code == ExitCode.DONE
    outcome = measured.run(Stage.EVALUATE)
    assert outcome.code == ExitCode.DONE, outcome.log
    metrics = {metric["name"]: metric for metric in measured.evaluation["metrics"]}
    rows = measured.predictions
    cut = [row for row in rows if row["reference"].endswith("metal")]
    assert 0 < len(cut) < len(rows)
    share = pytest.approx(1 - len(cut) / len(rows))
    assert (metrics["exact_match"]["teacher"], metrics["rouge_l"]["teacher"]) == (share, share)
    assert "teacher" not in metrics["loss"]
    assert [row["teacher"] for row in rows] == [None if row in cut else row["reference"] for row in rows]
    note = f"the teacher has no usable answer to {len(cut)} of {len(rows)} test prompts, which count as empty answers"
    assert note in measured.evaluation["notes"]
    assert measured.evaluation["details"]["teacher"]["tokensPerSecond"] > 0
    # They are the test examples of a job without a teacher.
    without = digest_of([{key: value for key, value in row.items() if key != "teacher"} for row in rows])
    assert measured.evaluation["testDigest"] == without
    page = (measured.revision / "evaluated" / "report.html").read_text()
    assert "Prompts that are left out, because the teacher has no usable answer" in page
    assert "the answer is cut at the limit of tokens" in page
    assert "Answers that are learned" in page
    assert '<th class="n">Teacher</th>' in page


def code_job(root: Path) -> TinyJob:
    body = "    return 2 * x\n"
    save_llama_with(root / "base", byte_level_tokenizer([body]))
    rows = [
        {"prompt": f"def f{number}(x):\n", "completion": body, "tests": f"assert f{number}(3) == 6\n"}
        for number in range(8)
    ]
    uri = {"uri": write_jsonl(root / "train.jsonl", rows)}
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": {"type": "CodeGeneration"},
            "dataset": {"train": uri, "validation": uri, "test": uri, "cleaning": {"deduplicate": "None"}},
            "training": {"maxSteps": 2, "batchSize": 4},
            "evaluation": {
                "allowCodeExecution": True,
                "metrics": ["pass_at_1", "parses", "loss"],
                "generation": {"maxNewTokens": 8},
                "publishWorse": True,
            },
            "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
            "output": {"uri": (root / "storage").as_uri()},
        },
    )


def question_job(root: Path) -> TinyJob:
    rows = [
        {"question": f"where is {name}", "context": f"it is in {place} today", "answers": [place]}
        for name, place in (("one", "Paris"), ("two", "Rome"), ("three", "London"), ("four", "Oslo"))
    ]
    return heart_job(root, rows).changed(training={"maxSteps": 2}, evaluation={"publishWorse": True})


def write_code(prompt: str) -> str:
    """Half of the programs are right."""
    right = int(prompt.rsplit("def f", 1)[1][0]) % 2
    return f"```python\n    return {2 if right else 3} * x\n```"


def write_place(prompt: str) -> str:
    place = prompt.split("it is in ")[1].split(maxsplit=1)[0]
    return place if place != "Oslo" else "unanswerable"


def write_label(prompt: str) -> str:
    words = prompt.rsplit("\n\n", 1)[1].split()
    if {"apple", "pear", "plum", "cherry"} & set(words):
        return "fruit"
    return "no idea" if {"iron", "copper", "zinc", "lead", "silver"} & set(words) else "weather"


@pytest.mark.parametrize(
    ("make", "write", "scores", "absent"),
    [
        (code_job, write_code, {"pass_at_1": 0.5, "parses": 1.0}, ["loss"]),
        (question_job, write_place, {"squad_f1": 0.75, "exact_match": 0.75}, []),
        (partial(classification_job, examples=120), write_label, {}, []),
    ],
    ids=["code", "spans", "labels"],
)
def test_teachers_of_other_tasks_are_measured(
    tmp_path: Path,
    make: Callable[[Path], TinyJob],
    write: Callable[[str], str],
    scores: dict[str, float],
    absent: list[str],
) -> None:
    with endpoint(lambda prompt, _: answer(write(prompt))) as server:
        job = taught(make(tmp_path), server, "other").changed(training={"maxSteps": 2})
        for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE):
            outcome = job.run(stage)
            assert outcome.code == ExitCode.DONE, outcome.log
    metrics = {metric["name"]: metric for metric in job.evaluation["metrics"]}
    if not scores:
        found = [row["label"] == row["teacher"] for row in job.predictions]
        scores = {"accuracy": sum(found) / len(found)}
        assert 0 < scores["accuracy"] < 1
    assert {name: metrics[name]["teacher"] for name in scores} == pytest.approx(scores)
    assert not any("teacher" in metrics[name] for name in absent)
    # Its size is not known; that of the student is.
    assert set(job.evaluation["costs"]) == {"student", "device"}
    assert job.evaluation["costs"]["student"]["rowsPerSecond"] > 0
    assert (
        "forward passes over rows of the test split on cpu" in (job.revision / "evaluated" / "report.html").read_text()
    )
