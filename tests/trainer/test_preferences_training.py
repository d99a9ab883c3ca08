"""PreferenceTuning in training: the loss of a step, its reference, and attempts that resume."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from finetune_api.failures import ExitCode
from finetune_api.stage import Stage
from finetune_trainer.tasks.preference_tuning.objective import REFERENCE
from tests.trainer.conftest import prepared
from tests.trainer.preference_fixtures import preference_job
from tests.trainer.stages import TinyJob

Trained = Callable[[str], TinyJob]
METHODS = {"DPO": "Full", "KTO": "LoRA", "ORPO": "LoRA"}
STAGES = {"DPO": 3, "KTO": 2, "ORPO": 0}
"""The ZeRO stage of the run with two processes."""
FEW_STEPS = {"maxSteps": 4, "evaluateEverySteps": 2, "checkpoint": {"everySteps": 2}}


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A job for each loss, trained by two processes with one row in a micro-batch; each runs once."""
    made: dict[str, TinyJob] = {}

    def job(loss: str) -> TinyJob:
        if loss not in made:
            whole = preference_job(tmp_path_factory.mktemp(loss), loss)
            method = {"type": METHODS[loss], "preference": {"loss": loss}}
            if METHODS[loss] == "LoRA":
                method["lora"] = {"dropout": 0.0}
            spec = {
                **whole.spec,
                "method": method,
                "training": whole.spec["training"] | FEW_STEPS,
                "distributed": {"gpusPerWorker": 0, "zero": {"stage": STAGES[loss]}},
            }
            divided = prepared(TinyJob(whole.root, spec, whole.name)).changed(training={"maxBatchSizePerDevice": 1})
            train(divided, processes=2)
            made[loss] = divided
        return made[loss]

    return job


def train(job: TinyJob, processes: int, attempt: int = 1) -> None:
    outcome = job.run(Stage.TRAIN, attempt=attempt, processes=processes)
    assert outcome.code == 0, outcome.log


def losses(job: TinyJob) -> list[float]:
    """The losses of all steps and validations."""
    history = json.loads((job.revision / "trained" / "history.json").read_text())
    return [point["loss"] for part in ("train", "validation") for point in history[part]]


@pytest.mark.parametrize(("loss", "untrained"), [("DPO", math.log(2)), ("KTO", 0.5), ("ORPO", None)])
def test_a_step_does_not_depend_on_processes_micro_batches_and_zero(
    divided: Trained, loss: str, untrained: float | None
) -> None:
    job = divided(loss)
    alone = job.named(f"{job.name}-alone", training={"maxBatchSizePerDevice": 6}, distributed={"zero": {"stage": 0}})
    train(alone, processes=1)
    assert losses(job) == pytest.approx(losses(alone), rel=1e-4)
    assert len(set(losses(job))) == 6, "training changes nothing"
    if untrained is not None:
        assert losses(job)[0] == pytest.approx(untrained, abs=1e-5)


def test_a_resumed_attempt_compares_with_the_same_reference(divided: Trained) -> None:
    job = divided("DPO")
    again = job.named("again")
    first = job.checkpoints[0]
    shutil.copytree(first, again.revision / "checkpoints" / first.name)
    train(again, processes=1, attempt=2)
    assert losses(again) == pytest.approx(losses(job), rel=1e-4)
    with np.load(first / REFERENCE) as old, np.load(again.checkpoints[-1] / REFERENCE) as new:
        assert set(old) == {"train", "validation"}
        assert all(np.array_equal(old[split], new[split]) for split in old)


def test_a_checkpoint_without_the_reference_is_refused(divided: Trained) -> None:
    job = divided("DPO")
    without = job.named("without")
    first = job.checkpoints[0]
    copy = without.revision / "checkpoints" / first.name
    shutil.copytree(first, copy)
    (copy / REFERENCE).unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] = [file for file in manifest["files"] if file["path"] != REFERENCE]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    outcome = without.run(Stage.TRAIN, attempt=2)
    assert outcome.code == ExitCode.BAD_CONFIGURATION, outcome.log
    assert outcome.message == (
        "the checkpoint has no log-probabilities of the base model for the train split: delete it to train from the "
        "start"
    )
