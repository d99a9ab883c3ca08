"""Tasks of lm-eval in a job: from the check to the gate, and compared with lm-eval alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.evaluation import Evaluation
from finetune_api.stage import EvaluateResult, Stage
from tests.trainer.harness_fixtures import LIBRARY, write_tasks
from tests.trainer.harness_parity import plain_results
from tests.trainer.stages import Outcome, TinyJob, instruction_job, write_jsonl

GATES = [{"metric": "choice/acc", "minimum": 0.0}, {"metric": "write/exact_match", "minimum": 1.0}]
NAMES = ["choice/acc", "choice/mcc", "write/exact_match", "write/chrf", "rolling/word_perplexity"]


@pytest.fixture(autouse=True, scope="module")
def _library() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HARNESS", LIBRARY)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A chat model with an adapter, evaluated."""
    root = tmp_path_factory.mktemp("harness")
    job = instruction_job(root)
    uri = write_tasks(root / "tasks")
    job = job.changed(
        evaluation={"harness": ["choice", "write", "rolling"], "harnessPath": {"uri": uri}, "gates": GATES},
        training={"maxSteps": 60, "learningRate": 2e-2, "batchSize": 16},
    )
    for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE):
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job


def harness_rows(job: TinyJob) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in job.evaluation["metrics"] if "/" in row["name"]}


class TestResults:
    def test_are_rows_after_those_of_the_task(self, tuned: TinyJob) -> None:
        names = [row["name"] for row in tuned.evaluation["metrics"]]
        assert names[0] == "rouge_l"
        assert names[-len(NAMES) :] == NAMES

    def test_are_those_of_lm_eval_alone(self, tuned: TinyJob) -> None:
        outcome = tuned.changed(evaluation={"gates": []}).run(Stage.PUBLISH)
        assert outcome.code == 0, outcome.log
        base = str(tuned.root / "base")
        adapter = {"pretrained": base, "peft": str(tuned.artifact), "tokenizer": str(tuned.artifact)}
        plain = plain_results(
            {
                "models": {"baseline": {"pretrained": base}, "tuned": adapter},
                "tasks": ["choice", "write", "rolling"],
                "directory": str(tuned.root / "tasks"),
                "chat": True,
            }
        )
        rows = harness_rows(tuned)
        for model, by_task in plain.items():
            for name, row in rows.items():
                task, _, metric = name.partition("/")
                assert row[model] == pytest.approx(by_task[task][f"{metric},none"], rel=1e-5), (model, name)
