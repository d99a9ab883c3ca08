"""Training with faults: crashes, SIGTERM, damaged checkpoints and invalid inputs."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import Stage, TrainResult
from tests.trainer.stages import TinyJob

TRAIN = Stage.TRAIN


@pytest.fixture(scope="module")
def undisturbed(classification: TinyJob) -> TinyJob:
    job = classification.named("undisturbed", training={"maxSteps": 20})
    outcome = job.run(TRAIN, processes=2)
    assert outcome.code == 0, outcome.log
    return job


def assert_same_end(job: TinyJob, reference: TinyJob) -> None:
    """Curve and weights equal those of an undisturbed run."""
    assert job.losses() == pytest.approx(reference.losses(), rel=1e-4)
    mine = load_file(job.revision / "trained" / "adapter_model.safetensors")
    theirs = load_file(reference.revision / "trained" / "adapter_model.safetensors")
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-3, atol=1e-5)


def test_training_stopped_by_sigterm_resumes_to_the_same_weights(classification: TinyJob, undisturbed: TinyJob) -> None:
    job = classification.named("stopped", training={"maxSteps": 20, "checkpoint": {"everySteps": 100}})
    with job.start(TRAIN, processes=2) as running:
        running.wait_for_step(3)
        running.process.send_signal(signal.SIGTERM)
        stopped = running.wait()
    assert stopped.code == ExitCode.STOPPED, stopped.log
    assert stopped.report.error is not None
    assert stopped.report.error.reason is Reason.STOPPED
    assert stopped.report.checkpoint is not None
    step = stopped.report.checkpoint.step
    assert f"after step {step} of 20" in stopped.message
    assert [path.name for path in job.checkpoints] == [f"step-{step:08d}"]
    resumed = job.run(TRAIN, attempt=2, processes=2)
    assert resumed.code == 0, resumed.log
    assert_same_end(job, undisturbed)


def test_a_killed_rank_is_named_and_the_next_attempt_resumes(classification: TinyJob, undisturbed: TinyJob) -> None:
    job = classification.named("killed", training={"maxSteps": 20})
    with job.start(TRAIN, processes=2) as running:
        running.wait_until(lambda: bool(job.checkpoints))
        os.kill(running.worker_pids()[1], signal.SIGKILL)
        killed = running.wait()
    assert killed.code == ExitCode.INTERNAL, killed.log
    assert killed.report.error is not None
    assert killed.report.error.reason is Reason.KILLED
    assert killed.report.error.rank == 1
    assert killed.message == "rank 1 was killed by SIGKILL; the job resumes from its newest checkpoint"
    resumed = job.run(TRAIN, attempt=2, processes=2)
    assert resumed.code == 0, resumed.log
    assert_same_end(job, undisturbed)


def test_a_stop_does_not_wait_for_ranks_that_hang(classification: TinyJob) -> None:
    job = classification.named("hung", training={"maxSteps": 2000, "checkpoint": {"everySteps": 2000}})
    with job.start(TRAIN, processes=2) as running:
        running.wait_for_step(3)
        os.kill(running.worker_pids()[1], signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        stopped = running.wait()
    assert stopped.code == ExitCode.STOPPED, stopped.log
    assert stopped.message.startswith("stopped on request without a checkpoint: the step did not end within ")
    assert job.checkpoints == []


def test_no_worker_outlives_a_killed_host(classification: TinyJob) -> None:
    job = classification.named("orphans", training={"maxSteps": 2000, "checkpoint": {"everySteps": 2000}})
    with job.start(TRAIN, processes=2) as running:
        running.wait_for_step(1)
        workers = running.worker_pids()
        assert len(workers) == 2
        descriptors = [os.pidfd_open(pid) for pid in workers]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)  # A running worker would fail when it sends its next event.
        running.process.kill()
        ended = [_ends(descriptor) for descriptor in descriptors]
        assert all(ended), "a worker went on without its host"


def _ends(descriptor: int) -> bool:
    """Wait for the end of a process that is not a child; kill it after a timeout."""
    ready, _, _ = select.select([descriptor], [], [], 60)
    if not ready:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)
    return bool(ready)


def test_a_stop_before_the_first_step_ends_at_once(classification: TinyJob) -> None:
    job = classification.named("early-stop")
    with job.start(TRAIN, forked=False) as running:
        running.wait_until(lambda: running.progress() is not None and bool(running.worker_pids()))
        running.process.send_signal(signal.SIGTERM)
        outcome = running.wait()
    assert outcome.code == ExitCode.STOPPED
    assert outcome.message == "stopped on request, before the first step"


def test_an_incomplete_checkpoint_is_skipped(classification: TinyJob, undisturbed: TinyJob) -> None:
    job = classification.named("torn", training={"maxSteps": 20})
    shutil.copytree(undisturbed.revision / "checkpoints", job.revision / "checkpoints")
    weights = next(job.checkpoints[-1].glob("*/mp_rank_00_model_states.pt"))
    weights.write_bytes(weights.read_bytes()[:-7])
    incomplete = job.revision / "checkpoints" / "step-00000099"
    shutil.copytree(job.checkpoints[0], incomplete)
    (incomplete / "manifest.json").unlink()
    outcome = job.run(TRAIN, processes=2)
    assert outcome.code == 0, outcome.log
    assert "skipping the checkpoint of step 20" in outcome.log
    assert "step-00000099" not in outcome.log
    assert_same_end(job, undisturbed)


def test_no_step_is_trained_after_the_checkpoint_of_the_last_step(
    classification: TinyJob, undisturbed: TinyJob
) -> None:
    job = classification.named("done", training={"maxSteps": 20})
    shutil.copytree(undisturbed.revision / "checkpoints", job.revision / "checkpoints")
    assert job.steps_stored[-1] == 20
    outcome = job.run(TRAIN, processes=2)
    assert outcome.code == 0, outcome.log
    assert_same_end(job, undisturbed)


def test_training_resumes_when_a_reapplied_job_has_prepared_the_same_data(
    classification: TinyJob, undisturbed: TinyJob
) -> None:
    job = classification.named("again", training={"maxSteps": 20})
    shutil.copytree(undisturbed.revision / "checkpoints", job.revision / "checkpoints")
    before = (job.revision / "prepared" / "manifest.json").read_bytes()
    shutil.rmtree(job.revision / "prepared")
    again = job.config(TRAIN)["job"] | {"uid": "uid-2"}
    assert job.run(Stage.PREPARE, job=again).code == 0
    assert (job.revision / "prepared" / "manifest.json").read_bytes() != before
    outcome = job.run(TRAIN, processes=2, job=again)
    assert outcome.code == 0, outcome.log
    assert_same_end(job, undisturbed)


def test_a_checkpoint_of_another_model_is_rejected(classification: TinyJob, undisturbed: TinyJob) -> None:
    job = classification.named("foreign")
    shutil.copytree(undisturbed.revision / "checkpoints", job.revision / "checkpoints")
    manifest = job.checkpoints[-1] / "manifest.json"
    content = json.loads(manifest.read_text())
    content["provenance"]["model"]["revision"] = "sha256:other"
    manifest.write_text(json.dumps(content))
    outcome = job.run(TRAIN, processes=2)
    assert outcome.code == ExitCode.BAD_CONFIGURATION
    assert f"{manifest.parent.as_uri()} was saved with another base model" in outcome.message
    assert "delete it, or change metadata.name or spec.output.uri" in outcome.message


def test_a_second_run_with_the_same_address_is_rejected(classification: TinyJob) -> None:
    job = classification.named("shared", training={"maxSteps": 2000, "checkpoint": {"everySteps": 2000}})
    with job.start(TRAIN) as running:
        running.wait_until(lambda: running.progress() is not None and (job.revision / "revision.json").exists())
        other = job.config(TRAIN, attempt=2)["job"] | {"uid": "uid-2"}
        second = job.run(TRAIN, attempt=2, job=other)
    assert second.code == ExitCode.BAD_CONFIGURATION
    assert "another run, on " in second.message
    assert f"is writing to {job.revision.as_uri()}" in second.message
    third = job.run(TRAIN, attempt=3, job=other | {"specDigest": "sha256:" + "e" * 64})
    assert third.code == ExitCode.BAD_CONFIGURATION
    assert third.report.error.reason is Reason.REVISION_TAKEN
    assert f"{job.revision.as_uri()} belongs to another spec" in third.message


def test_a_stored_result_is_not_trained_again(undisturbed: TinyJob) -> None:
    before = (undisturbed.revision / "trained" / "manifest.json").read_bytes()
    outcome = undisturbed.run(TRAIN, attempt=2, processes=2)
    assert outcome.code == 0, outcome.log
    assert isinstance(outcome.report.result, TrainResult)
    assert outcome.report.result.steps == 20
    assert (undisturbed.revision / "trained" / "manifest.json").read_bytes() == before


def test_a_full_disk_is_reported(classification: TinyJob, tmp_path: Path) -> None:
    job = classification.named("full-disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(tmp_path)], check=True)
    try:
        outcome = job.run(TRAIN, workspace=str(tmp_path / "workspace"))
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
    assert outcome.code == ExitCode.DOES_NOT_FIT, outcome.log
    assert outcome.report.error is not None
    assert outcome.report.error.reason is Reason.DISK_FULL


def test_an_unwritable_output_address_is_reported(classification: TinyJob, tmp_path: Path) -> None:
    job = classification.changed(output={"uri": tmp_path.as_uri()})
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], check=True)
    try:
        outcome = job.run(TRAIN, attempt=7)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert outcome.code == ExitCode.PERMISSION_DENIED, outcome.log
    assert str(tmp_path) in outcome.message


def test_broken_weights_diverge_at_the_first_step(classification: TinyJob, tmp_path: Path) -> None:
    job = classification.named("broken-weights")
    weights = load_file(job.root / "base" / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = float("nan")
    shutil.copytree(job.root / "base", tmp_path / "base")
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    broken = TinyJob(job.root, job.spec | {"model": {"uri": (tmp_path / "base").as_uri()}}, "nan")
    assert broken.run(Stage.PREPARE).code == 0
    outcome = broken.run(TRAIN)
    assert outcome.code == ExitCode.DIVERGED, outcome.log
    assert "the loss became nan in step 1" in outcome.message


def test_gpus_that_torch_does_not_find_are_reported(classification: TinyJob) -> None:
    job = classification.named("no-gpus", distributed={"gpusPerWorker": 2})
    outcome = job.run(TRAIN, world={"workers": 1, "processesPerWorker": 2, "device": "gpu"})
    assert outcome.code == ExitCode.UNAVAILABLE, outcome.log
    assert outcome.report.error is not None
    assert outcome.report.error.reason is Reason.GPU_UNAVAILABLE
    assert "The training was given 2 GPUs but torch finds none; check the GPU driver" in outcome.message
