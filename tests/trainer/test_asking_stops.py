"""SIGTERM while a stage asks an endpoint: what is under way is answered and stored, and nothing is asked twice."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from finetune_api.failures import ExitCode
from finetune_api.stage import Stage
from tests.endpoint_server import Endpoint, Reply, answer, endpoint
from tests.trainer.stages import TinyJob, instruction_job, write_jsonl
from tests.trainer.tiny_models import LABELS, make_texts

BEFORE = 3
"""Answers before the teacher becomes slow."""
AT_ONCE = 4


def taught(root: Path, server: Endpoint) -> TinyJob:
    """A job whose prepare asks a teacher."""
    teacher = {"endpoint": {"url": server.url, "model": "m", "maxConcurrency": AT_ONCE}}
    return instruction_job(root, 120).changed(distillation={"mode": "Responses", "teacher": teacher})


def searched(root: Path, server: Endpoint) -> TinyJob:
    """A job whose train and evaluate ask about prompts."""
    rows = [{"text": text, "label": LABELS[label]} for text, label in make_texts(70, 1)]
    return TinyJob(
        root,
        {
            "model": {"endpoint": {"url": server.url, "model": "m", "maxConcurrency": AT_ONCE}},
            "task": {"type": "TextClassification", "labels": list(LABELS)},
            "dataset": {
                "train": {"uri": write_jsonl(root / "train.jsonl", rows[:50])},
                "validation": {"fraction": 0.3},
                "test": {"uri": write_jsonl(root / "test.jsonl", rows[50:])},
            },
            "method": {"type": "PromptSearch", "promptSearch": {"candidates": ["what {text}"], "shots": [0]}},
            "evaluation": {"publishWorse": True},
            "distributed": {"gpusPerWorker": 0},
            "output": {"uri": (root / "storage").as_uri()},
        },
    )


def stored(job: TinyJob) -> int:
    """Number of the answers in storage."""
    return sum(len(path.read_text().splitlines()) for path in (job.revision.parent / "answers").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("make", "earlier", "stage"),
    [
        (taught, [], Stage.PREPARE),
        (searched, [Stage.PREPARE], Stage.TRAIN),
        (searched, [Stage.PREPARE, Stage.TRAIN], Stage.EVALUATE),
    ],
    ids=["teacher", "search", "comparison"],
)
def test_requests_under_way_are_waited_for_and_kept(tmp_path: Path, make, earlier, stage) -> None:  # type: ignore[no-untyped-def]
    released, answered, most = threading.Event(), itertools.count(1), float("inf")

    def respond(_: str, __: int) -> Reply:
        if next(answered) > most:
            released.wait()
        return answer("fruit")

    with endpoint(respond) as server:
        job: TinyJob = make(tmp_path, server)
        for one in earlier:
            assert job.run(one).code == ExitCode.DONE
        most = len(server.asked) + BEFORE
        with job.start(stage) as running:
            try:
                running.wait_until(lambda: len(server.asked) == most + AT_ONCE)
                running.process.send_signal(signal.SIGTERM)
                running.wait_until(lambda: (now := running.progress()) is not None and now.activity == "stopping")
            finally:
                released.set()
            outcome = running.wait()
        assert outcome.code == ExitCode.STOPPED, outcome.log
        assert outcome.message == "stopped on request; the answers so far are stored, and the job resumes from them"
        assert stored(job) == len(server.asked) == most + AT_ONCE
        outcome = job.run(stage, attempt=2)
        assert outcome.code == ExitCode.DONE, outcome.log
    asked = Counter(json.dumps(one, sort_keys=True) for one in server.asked)
    assert set(asked.values()) == {1}
    assert len(asked) > most + AT_ONCE
