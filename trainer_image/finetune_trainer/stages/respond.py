"""The respond stage: the teacher of a distillation generates the answers that the model learns.

The data is read again, as prepare has read and checked it: that takes seconds where the answers take hours, and nothing
but the report has to be handed over.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import Manifest
from finetune_api.stage import Device, RespondResult
from finetune_trainer.context import StageContext
from finetune_trainer.importing import heavy_imports
from finetune_trainer.manifests import fetch_directory, publish_directory
from finetune_trainer.prepare.inputs import Inputs, fetch_inputs
from finetune_trainer.prepare.notes import status_notes
from finetune_trainer.prepare.preparing import prepare
from finetune_trainer.prepared import DataReport, read_report
from finetune_trainer.stages.prepare import check_results, provenance_of, reusable
from finetune_trainer.teachers import fetch_teacher, generating_teacher
from finetune_trainer.teaching.answering import OpenAnswering
from finetune_trainer.teaching.generating import open_teacher


def run(context: StageContext) -> RespondResult:
    """Let the teacher answer the prompts of the data, and store the prepared data with its answers.

    Answers are kept as they are generated, for all attempts and revisions of the job.

    Raises:
        StageFailure: BadData when too many answers cannot be used; RevisionTaken when the inputs have changed since
            prepare; BadConfiguration, NotFound, OutOfMemory, GpuUnavailable, and the failures of storage.
    """
    config = context.config
    checked = context.workspace / "unanswered"
    before = fetch_directory(config.layout.unanswered, checked)
    inputs = fetch_inputs(config.spec, context.workspace, context.reporter.progress)
    _check_inputs(before, inputs, config.layout.unanswered)
    check_results(config, inputs.digest)
    provenance = provenance_of(context, inputs)
    if (earlier := reusable(context, config.layout.prepared, provenance)) is not None:
        return _result(context, *earlier)
    report, output = prepare(context, inputs, _answering(context, inputs, read_report(checked)))
    context.reporter.progress("storing the prepared data")
    return _result(context, report, publish_directory(output, config.layout.prepared, provenance))


def _check_inputs(before: Manifest, inputs: Inputs, uri: str) -> None:
    if before.provenance.get("inputsDigest") != inputs.digest:
        raise StageFailure(
            Reason.REVISION_TAKEN,
            f"The data, the teacher or the base model has changed since {uri} was made; this job uses the next "
            "revision",
        )


def _answering(context: StageContext, inputs: Inputs, report: DataReport) -> OpenAnswering:
    """Opens the teacher, whose weights are fetched once there is a prompt without a stored answer."""
    spec, world = context.config.spec, context.config.world
    model, teacher = generating_teacher(spec), inputs.teacher
    assert model is not None
    assert teacher is not None

    def weights() -> Path:
        context.reporter.progress("fetching the teacher")
        scratch, revision = context.workspace / "teacher-weights", teacher.identity.revision
        return fetch_teacher(model, scratch, weights=True, revision=revision).path

    opened = open_teacher(teacher, spec)
    context.reporter.progress("importing torch and transformers")
    with heavy_imports():
        from finetune_trainer.modelling.gpus import require_gpus
        from finetune_trainer.modelling.loading import set_up
        from finetune_trainer.modelling.precision import Hardware
        from finetune_trainer.teaching.local import local_answering

    set_up(spec.training.seed)
    if world.device is Device.GPU:
        require_gpus("stage respond", 1)
    hardware = Hardware.of(spec.training.precision, world.device)
    return partial(local_answering, opened, weights, report, hardware)


def _result(context: StageContext, report: DataReport, manifest: Manifest) -> RespondResult:
    assert report.responses is not None
    return RespondResult(
        uri=context.config.layout.prepared,
        digest=manifest.digest,
        examples={name: split.examples for name, split in report.splits.items()},
        tokens=report.splits["train"].tokens,
        responses=report.responses.answers,
        notes=status_notes(report.notes),
    )
