"""Inputs of the training processes of a pod; the host fetches them once, while the workers import libraries."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import Manifest
from finetune_api.stage import CheckpointRef, StageConfig, World
from finetune_trainer.checkpoints.upload import FetchedCheckpoint, fetch_newest
from finetune_trainer.manifests import fetch_directory
from finetune_trainer.models import fetch_model
from finetune_trainer.prepared import DataReport, read_report
from finetune_trainer.teachers import fetch_pinned, teaches

_NAME = "inputs.json"
_POLL_SECONDS = 0.05


class CheckpointInput(BaseModel):
    """The checkpoint to resume from."""

    model_config = ConfigDict(frozen=True)

    ref: CheckpointRef
    directory: str
    processes: int
    """World size that saved it."""
    zero_stage: int
    """ZeRO stage that saved it."""


class TrainInputs(BaseModel):
    """The inputs, as directories on local disk."""

    model_config = ConfigDict(frozen=True)

    prepared: str
    prepared_digest: str
    """Digest of the manifest of the prepared data, including provenance such as the job."""
    inputs_digest: str
    """Digest of the data and the base model."""
    data_digest: str
    """See `data_digest`."""
    model: str
    teacher: str | None
    """Without a teacher that training needs."""
    checkpoint: CheckpointInput | None


def fetch_train_inputs(config: StageConfig, workspace: Path) -> None:
    """Fetch prepared data, model and newest checkpoint into ``workspace``, and then release the waiting workers.

    Raises:
        StageFailure: NotFound, Unavailable, PermissionDenied, BadData (torn data), BadConfiguration (the
            checkpoint is from another model or spec).
    """
    prepared = workspace / "prepared"
    shutil.rmtree(prepared, ignore_errors=True)
    manifest = fetch_directory(config.layout.prepared, prepared)
    report = read_report(prepared)
    model = fetch_model(config.spec.model, workspace / "model", weights=True, revision=report.model.revision)
    teacher = fetch_pinned(config.spec, report, workspace / "teacher") if teaches(config.spec) else None
    digest = data_digest(manifest, report)
    resume = workspace / "resume"
    shutil.rmtree(resume, ignore_errors=True)
    found = fetch_newest(config.layout.checkpoints, resume)
    inputs = TrainInputs(
        prepared=str(prepared),
        prepared_digest=manifest.digest,
        inputs_digest=report.inputs_digest,
        data_digest=digest,
        model=str(model.path),
        teacher=str(teacher.path) if teacher else None,
        checkpoint=_checkpoint_input(found, config, report, digest) if found else None,
    )
    temporary = workspace / f"{_NAME}.part"
    temporary.write_text(inputs.model_dump_json())
    os.replace(temporary, workspace / _NAME)


def data_digest(manifest: Manifest, report: DataReport) -> str:
    """Digest of the part of the prepared data that training depends on.

    It is the same when a job that was applied again prepares equal data, also with other evaluation.slices, so that the
    job can resume from its checkpoint.
    """
    evaluated = (layout.split_file("test"), layout.DATA_REPORT, layout.TEACHER_ANSWERS)
    files = tuple(entry for entry in manifest.files if entry.path not in evaluated)
    return Manifest(files=files, provenance=report.model_dump(mode="json", exclude={"notes", "responses"})).digest


def wait_for_inputs(workspace: Path) -> TrainInputs:
    """Wait until the host has fetched the inputs; if that fails, the host terminates this process."""
    path = workspace / _NAME
    while not path.exists():
        time.sleep(_POLL_SECONDS)
    return TrainInputs.model_validate_json(path.read_bytes())


def checkpoint_provenance(config: StageConfig, report: DataReport, data_digest: str, step: int) -> dict[str, object]:
    """The provenance in the manifest of a checkpoint."""
    return {
        "step": step,
        "trainingDigest": config.job.training_digest,
        "inputsDigest": report.inputs_digest,
        "dataDigest": data_digest,
        "model": {"uri": report.model.uri, "revision": report.model.revision},
        "world": config.world.model_dump(mode="json"),
        "zeroStage": config.spec.distributed.zero.stage,
    }


def _checkpoint_input(
    found: FetchedCheckpoint, config: StageConfig, report: DataReport, data_digest: str
) -> CheckpointInput:
    _check_origin(found, checkpoint_provenance(config, report, data_digest, found.ref.step))
    world = World.model_validate(found.provenance["world"], strict=False)
    return CheckpointInput(
        ref=found.ref,
        directory=str(found.directory),
        processes=world.size,
        zero_stage=found.provenance["zeroStage"],
    )


def _check_origin(found: FetchedCheckpoint, expected: dict[str, object]) -> None:
    origin = (("model", "another base model"), ("trainingDigest", "another spec"), ("dataDigest", "other data"))
    for field, what in origin:
        if found.provenance.get(field) != expected[field]:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"the checkpoint {found.ref.uri} was saved with {what} ({found.provenance.get(field)} instead of "
                f"{expected[field]}): delete it, or change metadata.name or spec.output.uri",
            )
    stage, wanted = found.provenance.get("zeroStage"), expected["zeroStage"]
    if (stage == 0) != (wanted == 0):
        fitting = "0" if stage == 0 else "1, 2 or 3"
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"the checkpoint {found.ref.uri} was saved with ZeRO stage {stage}, from which stage {wanted} cannot "
            f"resume: set distributed.zero.stage to {fitting}, or delete the checkpoint to train from the start",
        )
