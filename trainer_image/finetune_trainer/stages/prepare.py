"""The prepare stage: checks, cleans, splits and tokenises the data."""

from __future__ import annotations

import logging
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import Manifest
from finetune_api.stage import PrepareResult, StageConfig
from finetune_trainer import storage
from finetune_trainer.checkpoints.upload import complete_checkpoints
from finetune_trainer.context import StageContext
from finetune_trainer.evaluate.power import notes_before
from finetune_trainer.harness.check import check_harness
from finetune_trainer.manifests import TornDirectory, publish_directory, read_manifest
from finetune_trainer.models import read_config
from finetune_trainer.prepare.inputs import Inputs, fetch_inputs
from finetune_trainer.prepare.measured import measured_notes
from finetune_trainer.prepare.notes import (
    status_notes,
)
from finetune_trainer.prepare.preparing import check_world, family_for, prepare
from finetune_trainer.prepare.splits import TEST
from finetune_trainer.prepared import DataReport
from finetune_trainer.teachers import generating_teacher
from finetune_trainer.teaching.answering import endpoint_answering

LAYOUT = 5
"""Version of the format of the prepared data; data in another version is prepared again."""

_LIBRARIES = ("huggingface-hub", "numpy", "pyarrow", "tokenizers", "transformers")

log = logging.getLogger(__name__)


def run(context: StageContext) -> PrepareResult:
    """Check, clean, split and tokenise the data, and store it at ``config.layout.prepared``.

    If a teacher generates answers later, only the report about the data is stored, at ``config.layout.unanswered``: the
    stage respond prepares the data. If an earlier attempt has stored data prepared from the same spec, sources and
    model, it is reused.

    Raises:
        StageFailure: BadData, BadConfiguration, NotFound, PermissionDenied, Unavailable or DiskFull; RevisionTaken when
            the revision has results of other data or of another base model.
    """
    config = context.config
    inputs = fetch_inputs(config.spec, context.workspace, context.reporter.progress)
    check_harness(
        config.spec,
        family_for(config.spec, read_config(inputs.model.path, config.spec.model.uri)),
        context.workspace / "harness",
        context.reporter.progress,
    )
    check_results(config, inputs.digest)
    provenance = provenance_of(context, inputs)
    unanswered = generating_teacher(config.spec) is not None
    uri = config.layout.unanswered if unanswered else config.layout.prepared
    if (earlier := reusable(context, uri, provenance)) is not None:
        return _result(context, uri, *earlier)
    answering = None if config.dry_run else endpoint_answering(config.spec)
    report, output = prepare(context, inputs, answering)
    context.reporter.progress("storing the prepared data")
    if unanswered and not config.dry_run:  # `finetune advise` reads the rows.
        output = _only_report(output)
    return _result(context, uri, report, publish_directory(output, uri, provenance))


def _only_report(prepared: Path) -> Path:
    """A directory with nothing but the report of the directory ``prepared``."""
    directory = prepared.with_name("unanswered")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    shutil.copy(prepared / layout.DATA_REPORT, directory)
    return directory


def reusable(context: StageContext, uri: str, provenance: dict[str, Any]) -> tuple[DataReport, Manifest] | None:
    """What an earlier attempt has stored at ``uri``, from the same spec, data and model; None if there is nothing.

    Raises:
        StageFailure: As `run`.
    """
    present = _present(uri)
    if present is None:
        return None
    if _origin(present.provenance) != _origin(provenance):
        # The revision has no results of that data; see check_results.
        log.info("deleting %s, which was prepared from other data or columns", uri)
        storage.delete_tree(uri)
        return None
    log.info("reusing %s, which was prepared from the same spec, data and model", uri)
    report = DataReport.model_validate_json(storage.read_bytes(storage.join(uri, layout.DATA_REPORT)))
    # The world size may have changed since then, because it is not part of the spec digest.
    check_world(spec=context.config.spec, report=report)
    return report, present


def provenance_of(context: StageContext, inputs: Inputs) -> dict[str, Any]:
    """The provenance of data that is prepared from ``inputs``."""
    job = context.config.job
    return {
        "layout": LAYOUT,
        "job": {"namespace": job.namespace, "name": job.name, "uid": job.uid, "revision": job.revision},
        "trainingDigest": job.training_digest,
        "inputsDigest": inputs.digest,
        "slices": list(context.config.spec.evaluation.slices),
        "sources": {
            name: [file.source.model_dump(mode="json") for file in files] for name, files in inputs.data.files.items()
        },
        "model": inputs.identity.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
    }


def _origin(provenance: dict[str, Any]) -> dict[str, Any]:
    """The part of the provenance that determines the prepared data: not the job or the library versions."""
    return {name: provenance.get(name) for name in ("layout", "trainingDigest", "inputsDigest", "slices")}


def check_results(config: StageConfig, inputs_digest: str) -> None:
    """Check that everything that was trained in this revision was trained on the same data and base model.

    Raises:
        StageFailure: RevisionTaken when the data or the model has changed since then.
    """
    newest = complete_checkpoints(config.layout.checkpoints)[-1:]
    for uri in (config.layout.trained, config.layout.artifact, *(checkpoint.uri for checkpoint in newest)):
        try:
            manifest = read_manifest(uri)
        except TornDirectory:
            continue  # The stage that reads it replaces or reports it.
        if manifest is not None and manifest.provenance.get("inputsDigest") != inputs_digest:
            raise StageFailure(
                Reason.REVISION_TAKEN,
                f"The data{', the adapter' if config.spec.model.adapter else ''}"
                f"{', the teacher' if config.spec.distillation else ''} or the base model has changed since "
                f"{uri} was made; this job uses the next revision",
            )


def _present(uri: str) -> Manifest | None:
    try:
        return read_manifest(uri)
    except TornDirectory:
        storage.delete_tree(uri)
        return None


def _result(context: StageContext, uri: str, report: DataReport, manifest: Manifest) -> PrepareResult:
    # Not in the report, because the evaluation may change without the data.
    of_rows = measured_notes(context.config, report, context.workspace / "measured")
    of_gates = [*of_rows, *notes_before(context.config.spec.evaluation, report.splits[TEST].examples)]
    for note in of_gates:
        log.warning("%s", note)
    return PrepareResult(
        uri=uri,
        digest=manifest.digest,
        inputs_digest=report.inputs_digest,
        examples={name: split.examples for name, split in report.splits.items()},
        tokens=report.splits["train"].tokens,
        duplicates=report.duplicates + report.leaked,
        invalid=report.invalid,
        notes=status_notes([*of_gates, *report.notes]),
        labels=len(report.labels) or None,
        parameters=report.model.parameters,
        rounded_parameters=report.rounded_parameters,
        teacher_parameters=report.teacher.model.parameters if report.teacher else None,
        detected=report.detected[:300],
        responses=report.responses.answers if report.responses else None,
    )
