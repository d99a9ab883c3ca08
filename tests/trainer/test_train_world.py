"""Training that resumes from a checkpoint of another world size."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.failures import ExitCode, Reason, StageFailure
from finetune_api.stage import CheckpointRef, Stage, StageConfig
from finetune_trainer.checkpoints.resume import LoadableCheckpoint, make_loadable
from finetune_trainer.context import Reporter
from finetune_trainer.host.inputs import CheckpointInput
from tests.ports import free_port
from tests.trainer.stages import TinyJob

TRAIN = Stage.TRAIN
STEPS = 12
References = Callable[[str, int], TinyJob]


def job_of(instruction: TinyJob, name: str, method: str, stage: int) -> TinyJob:
    """A job with separate settings for weights with and without decay, and without dropout.

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
    """Uninterrupted runs with two processes by method and ZeRO stage; each runs once."""
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
    """``job`` after a first attempt, copied from ``earlier``, that ended after the checkpoint of ``step``."""
    name = f"step-{step:08d}"
    shutil.copytree(earlier.revision / "checkpoints" / name, job.revision / "checkpoints" / name)
    return job


def resume(job: TinyJob, processes: int) -> str:
    """Train to the end; returns the log."""
    outcome = job.run(TRAIN, attempt=2, processes=processes)
    assert outcome.code == 0, outcome.log
    return outcome.log


def assert_same_end(job: TinyJob, reference: TinyJob) -> None:
    """Every step ran once, and curves and weights equal those of an uninterrupted run."""
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
def test_an_adapter_resumes_with_fewer_and_then_with_more_processes(
    instruction: TinyJob, undisturbed: References, stage: int
) -> None:
    reference = undisturbed("LoRA", stage)
    fewer = begun(job_of(instruction, f"fewer-{stage}", "LoRA", stage), reference, 4)
    resume(fewer, processes=1)
    assert_same_end(fewer, reference)
    # Resumes from a checkpoint that was saved after a conversion.
    more = begun(job_of(instruction, f"more-{stage}", "LoRA", stage), fewer, 8)
    resume(more, processes=2)
    assert_same_end(more, reference)


def test_answers_generated_in_training_change_no_step(instruction: TinyJob, undisturbed: References) -> None:
    """With ZeRO-3, each generated token gathers weights from both processes, whose batches end at different lengths."""
    reference = undisturbed("LoRA", 3)
    metrics = {"metrics": ["chrf", "rouge_l", "loss"], "generation": {"maxNewTokens": 9}}
    found = []
    for stage, processes in ((3, 2), (0, 1)):
        job = job_of(instruction, f"generated-{stage}", "LoRA", stage)
        job = job.named(
            f"measured-{stage}",
            training={"evaluateEverySteps": 4},
            evaluation={**metrics, "duringTraining": {"examples": 7}},
        )
        outcome = job.run(TRAIN, processes=processes)
        assert outcome.code == 0, outcome.log
        assert job.losses() == pytest.approx(reference.losses(), rel=1e-5)
        found.append(json.loads((job.revision / "trained" / "history.json").read_text())["validation"])
    for mine, theirs in zip(*found, strict=True):
        assert mine["step"] == theirs["step"]
        assert set(mine["metrics"]) == {"chrf", "rouge_l"}
        assert mine["metrics"] == pytest.approx(theirs["metrics"], rel=1e-6)
    assert [point["step"] for point in found[0]] == [4, 8, 12]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_full_finetuning_resumes_with_fewer_processes(
    instruction: TinyJob, undisturbed: References, stage: int
) -> None:
    reference = undisturbed("Full", stage)
    job = begun(job_of(instruction, f"full-{stage}", "Full", stage), reference, 4)
    resume(job, processes=1)
    assert_same_end(job, reference)


@pytest.mark.parametrize(("written", "now"), [(2, 3), (3, 1)])
def test_training_resumes_with_another_zero_stage(
    instruction: TinyJob, undisturbed: References, written: int, now: int
) -> None:
    reference = undisturbed("Full", written)
    job = begun(job_of(instruction, f"stage-{written}-{now}", "Full", now), reference, 4)
    resume(job, processes=1)
    assert_same_end(job, reference)


def test_each_pod_converts_the_checkpoint_itself(
    instruction: TinyJob, undisturbed: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = undisturbed("LoRA", 3)
    job = begun(job_of(instruction, "pods", "LoRA", 3), reference, 4)
    gang = {"world": {"workers": 2, "processesPerWorker": 2, "device": "cpu"}, "mainPort": free_port()}
    with contextlib.ExitStack() as stack:
        pods = []
        for index in (0, 1):
            monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
            # Different attempt numbers give separate directories.
            pods.append(stack.enter_context(job.start(TRAIN, attempt=2 + index, **gang)))
        for pod in pods:
            outcome = pod.wait()
            assert outcome.code == 0, outcome.log
    assert_same_end(job, reference)
    assert json.loads((job.checkpoints[-1] / "manifest.json").read_text())["provenance"]["world"]["workers"] == 2


def test_early_stopping_continues_after_a_resume_and_keeps_the_best_weights(instruction: TinyJob) -> None:
    # No later validation improves on the first by min_delta, so the fourth ends the training at step 8.
    rule = {"evaluateEverySteps": 2, "earlyStopping": {"patience": 3, "minDelta": 10}}
    reference, job = (
        job_of(instruction, name, "LoRA", 2).changed(training=rule) for name in ("stopping", "stopping-fewer")
    )
    resume(reference, processes=2)
    # Checkpoints during an upload are skipped, so that a slow machine may save none in between.
    for step in sorted({2, max(step for step in reference.steps_stored if step < 8)}):
        begun(job, reference, step)
    resume(job, processes=1)
    for each in (reference, job):
        trained = json.loads((each.revision / "trained" / "training.json").read_text())
        assert (trained["steps"], trained["weightsOfStep"], trained["stoppedEarly"]) == (8, 2, True)
    name = "adapter_model.safetensors"
    kept = (reference.revision / "checkpoints" / "step-00000002" / name).read_bytes()
    assert (job.revision / "trained" / name).read_bytes() == kept


def test_a_checkpoint_without_zero_is_not_loaded_with_zero(instruction: TinyJob, undisturbed: References) -> None:
    job = begun(job_of(instruction, "unsharded", "LoRA", 2), undisturbed("LoRA", 0), 4)
    outcome = job.run(TRAIN)
    assert outcome.code == ExitCode.BAD_CONFIGURATION
    assert (
        f"{job.checkpoints[0].as_uri()} was saved with ZeRO stage 0, from which stage 2 cannot resume: set "
        "distributed.zero.stage to 0, or delete the checkpoint"
    ) in outcome.message


def local_checkpoint(reference: TinyJob, directory: Path, stage: int) -> CheckpointInput:
    """The checkpoint of step 4 as the host passes it to the workers."""
    source = reference.revision / "checkpoints" / "step-00000004"
    shutil.copytree(source, directory)
    ref = CheckpointRef(step=4, uri=source.as_uri())
    return CheckpointInput(ref=ref, directory=str(directory), processes=2, zero_stage=stage)


class RecordingReporter(Reporter):
    """Records the reported activities."""

    def __init__(self) -> None:
        super().__init__(None)
        self.activities: list[str] = []

    def progress(self, activity: str, done: int | None = None, total: int | None = None, unit: str = "steps") -> None:
        self.activities.append(activity)


def test_a_checkpoint_of_the_same_world_size_is_not_converted(
    undisturbed: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = undisturbed("LoRA", 2)
    monkeypatch.setenv("LOCAL_RANK", "0")
    checkpoint = local_checkpoint(reference, tmp_path / "step", 2)
    before = sorted(tmp_path.rglob("*"))
    # One pod with two processes has saved it.
    world = {"workers": 2, "processesPerWorker": 1, "device": "cpu"}
    config = StageConfig.model_validate(reference.config(TRAIN, attempt=9, world=world), strict=False)
    reporter = RecordingReporter()
    assert make_loadable(checkpoint, config, reporter) == LoadableCheckpoint(tmp_path / "step", universal=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert reporter.activities == []


def test_a_checkpoint_that_cannot_be_converted_is_reported(
    undisturbed: References, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = undisturbed("LoRA", 3)
    monkeypatch.setenv("LOCAL_RANK", "0")
    checkpoint = local_checkpoint(reference, tmp_path / "step", 3)
    for path in (tmp_path / "step").glob("*/*_model_states.pt"):
        state = torch.load(path, weights_only=False)
        del state["param_shapes"]
        torch.save(state, path)
    config = StageConfig.model_validate(reference.config(TRAIN, attempt=9), strict=False)
    reporter = RecordingReporter()
    with pytest.raises(StageFailure) as caught:
        make_loadable(checkpoint, config, reporter)
    assert caught.value.reason is Reason.BAD_CONFIGURATION
    assert (
        f"the checkpoint {checkpoint.ref.uri} was saved by 2 processes at ZeRO stage 3 and cannot be converted to 1 "
        "at stage 3 (KeyError: 'param_shapes'): restore the previous number of processes and ZeRO stage, or delete the "
        "checkpoint to train from the start"
    ) == caught.value.message
    assert reporter.activities == ["converting the checkpoint to 1 process"]
