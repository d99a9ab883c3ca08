"""The loss of label lists and of weighted labels does not depend on how a step is divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import Stage
from tests.trainer.conftest import prepared
from tests.trainer.stages import TinyJob, classification_job, write_jsonl
from tests.trainer.tiny_models import LABELS, make_texts, save_llama


def rows(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Nine in ten have the first label."""
    labels = [0 if number % 10 else 1 + number // 10 % 2 for number in range(120)]
    texts = [text for text, _ in make_texts(120, 1)]
    named = zip(texts, labels, strict=True)
    if "multiLabel" in task:
        return [{"text": text, "label": [LABELS[label], LABELS[0]][: label + 1]} for text, label in named]
    return [{"text": text, "label": LABELS[label]} for text, label in named]


@pytest.mark.parametrize("task", [{"classWeights": "Balanced"}, {"multiLabel": True}], ids=str)
def test_losses_are_the_same_for_other_micro_batches_and_processes(tmp_path: Path, task: dict[str, Any]) -> None:
    job: TinyJob = classification_job(tmp_path)
    save_llama(tmp_path / "base")  # Without dropout, which draws other numbers with other processes.
    job.spec["dataset"] = {"train": {"uri": write_jsonl(tmp_path / "train.jsonl", rows(task))}}
    job.spec["task"] |= task
    job.spec["method"] = {"type": "LoRA", "lora": {"dropout": 0.0}}
    job.spec["training"] |= {"maxSteps": 3, "maxBatchSizePerDevice": 16, "checkpoint": {"everySteps": 100}}
    prepared(job)
    whole, divided = job.named("whole"), job.named("divided", training={"maxBatchSizePerDevice": 4})
    for each, processes in ((whole, 1), (divided, 2)):
        outcome = each.run(Stage.TRAIN, processes=processes)
        assert outcome.code == 0, outcome.log
    assert divided.losses() == pytest.approx(whole.losses(), rel=1e-4)
    histories = [json.loads((each.revision / "trained" / "history.json").read_text()) for each in (whole, divided)]
    norms = [[point["gradNorm"] for point in history["train"]] for history in histories]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    validation = [history["validation"][-1]["loss"] for history in histories]
    assert validation[1] == pytest.approx(validation[0], rel=1e-4)
