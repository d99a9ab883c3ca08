"""Training that goes on with another number of processes than its checkpoint was written by."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.stage import Stage
from tests.trainer.stages import TinyJob

TRAIN = Stage.TRAIN
STEPS = 12
References = Callable[[str, int], TinyJob]


@pytest.fixture(scope="module", autouse=True)
def keep_bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every run imports torch and its like, which takes twice as long where Python is told to keep no bytecode."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


def job_of(instruction: TinyJob, name: str, method: str, stage: int) -> TinyJob:
    """A job with settings of its own for weights with and without decay, and without dropout.

    Dropout draws other numbers with other processes, so only without it are curves the same.
    """
    return instruction.named(
        name,
        method={"type": method} | ({"lora": {"dropout": 0.0}} if method == "LoRA" else {}),
        distributed={"zero": {"stage": stage}},
        training={"maxSteps": STEPS, "weightDecay": 0.1, "checkpoint": {"everySteps": 4, "keep": 3}},
    )


@pytest.fixture(scope="module")
def undisturbed(instruction: TinyJob) -> References:
    """The run of a method and ZeRO stage with two processes from start to end; each is run once."""
    made: dict[tuple[str, int], TinyJob] = {}

    def reference(method: str, stage: int) -> TinyJob:
        if (method, stage) not in made:
            job = job_of(instruction, f"undisturbed-{method.lower()}-{stage}", method, stage)
            outcome = job.run(TRAIN, processes=2)
            assert outcome.code == 0, outcome.log
            made[method, stage] = job
        return made[method, stage]

    return reference


def begun(job: TinyJob, earlier: TinyJob, step: int) -> TinyJob:
    """``job`` as if ``earlier`` had been its first attempt and had ended after the checkpoint of ``step``."""
    name = f"step-{step:08d}"
    shutil.copytree(earlier.revision / "checkpoints" / name, job.revision / "checkpoints" / name)
    return job


def resume(job: TinyJob, processes: int) -> str:
    """Train to the end; returns the log."""
    outcome = job.run(TRAIN, attempt=2, processes=processes)
    assert outcome.code == 0, outcome.log
    return outcome.log


def assert_same_end(job: TinyJob, reference: TinyJob) -> None:
    """Every step once, the same curves, the same weights: as if nothing had happened."""
    assert [point["step"] for point in job.history()] == list(range(1, STEPS + 1))
    assert job.losses() == pytest.approx(reference.losses(), rel=1e-5)
    curves, expected = (
        json.loads((each.revision / "trained" / "history.json").read_text()) for each in (job, reference)
    )
    for field in ("learningRate", "gradNorm", "epoch", "tokens"):
        assert [point[field] for point in curves["train"]] == pytest.approx(
            [point[field] for point in expected["train"]], rel=1e-4
        )
    assert [point["loss"] for point in curves["validation"]] == pytest.approx(
        [point["loss"] for point in expected["validation"]], rel=1e-5
    )
    name = next((reference.revision / "trained").glob("*.safetensors")).name
    mine, theirs = load_file(job.revision / "trained" / name), load_file(reference.revision / "trained" / name)
    assert mine.keys() == theirs.keys()
    for key, weight in theirs.items():
        torch.testing.assert_close(mine[key], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_adapter_goes_on_with_fewer_and_then_again_with_more_processes(
    instruction: TinyJob, undisturbed: References, stage: int
) -> None:
    reference = undisturbed("LoRA", stage)
    fewer = begun(job_of(instruction, f"fewer-{stage}", "LoRA", stage), reference, 4)
    resume(fewer, processes=1)
    assert_same_end(fewer, reference)
    # From a checkpoint that was written after a conversion.
    more = begun(job_of(instruction, f"more-{stage}", "LoRA", stage), fewer, 8)
    resume(more, processes=2)
    assert_same_end(more, reference)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_all_weights_go_on_with_fewer_processes(instruction: TinyJob, undisturbed: References, stage: int) -> None:
    reference = undisturbed("Full", stage)
    job = begun(job_of(instruction, f"full-{stage}", "Full", stage), reference, 4)
    resume(job, processes=1)
    assert_same_end(job, reference)
