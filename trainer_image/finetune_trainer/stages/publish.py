"""The publish stage: assembles and uploads the artifact, and deletes files that the job does not keep."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api import layout
from finetune_api.evaluation import Evaluation
from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import JobLayout
from finetune_api.manifest import Manifest
from finetune_api.stage import LONG_NOTE_LENGTH, PublishResult, StageConfig
from finetune_api.tables.reasons import Retry
from finetune_trainer import storage
from finetune_trainer.checkpoints.upload import stored_checkpoints
from finetune_trainer.context import StageContext
from finetune_trainer.exports import export_of
from finetune_trainer.exports.base import ExportInputs
from finetune_trainer.host.revision_lock import read_holder
from finetune_trainer.json_files import read_json_if_present
from finetune_trainer.manifests import fetch_directory, fetch_files, publish_directory, read_manifest
from finetune_trainer.prepared import DataReport, effective_spec, read_report, report_for_use
from finetune_trainer.publish.model_card import CardInputs, render_card
from finetune_trainer.stages.evaluate import read_evaluation, trained_digest
from finetune_trainer.tasks import form_for

log = logging.getLogger(__name__)


def run(context: StageContext) -> PublishResult:
    """Publish the trained weights, with tokenizer, evaluation, report, model card and provenance.

    The stage is idempotent: running it again gives the same digest, even if the prepared data has been deleted.

    Raises:
        StageFailure: NotFound (no trained weights, evaluation or prepared data), BadConfiguration (a gate has failed,
            or another run has published to the same address), and the failures of storage.
    """
    config, reporter = context.config, context.reporter
    weights = trained_digest(config)
    evaluated = _manifest(config.layout.evaluated, "evaluate")
    evaluation = read_evaluation(config.layout.evaluated)
    _check(config, evaluation, weights, evaluated)
    manifest = read_manifest(config.layout.artifact)
    if manifest is None:
        reporter.progress("assembling the artifact")
        artifact = context.workspace / "artifact"
        shutil.rmtree(artifact, ignore_errors=True)
        artifact.mkdir()
        provenance = _assemble(context, artifact, evaluation)
        reporter.progress("uploading the artifact")
        manifest = publish_directory(artifact, config.layout.artifact, provenance)
    elif not _same_origin(manifest, config, weights, evaluated):
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"Another run has already published to {config.layout.artifact}; change metadata.name or output.uri",
        )
    reporter.progress("deleting files that are no longer needed")
    note = _clean_up(config)
    return PublishResult(uri=config.layout.artifact, digest=manifest.digest, size=manifest.size, note=note)


def _manifest(uri: str, stage: str) -> Manifest:
    manifest = read_manifest(uri)
    if manifest is None:
        raise StageFailure(Reason.NOT_FOUND, f"There is no complete result at {uri}; run the {stage} stage first")
    return manifest


def _check(config: StageConfig, evaluation: Evaluation, weights: str, evaluated: Manifest) -> None:
    if evaluated.provenance.get("trainedDigest") != weights:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{config.layout.evaluated} evaluates other weights than those at {config.layout.trained}; run the "
            "evaluate stage again",
        )
    failed = dict.fromkeys(str(gate.metric) for gate in evaluation.gates if not gate.passed)
    if failed:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The model is not published because its gate on {', '.join(failed)} failed; see "
            f"{config.layout.evaluated}/{layout.REPORT}",
        )


def _same_origin(present: Manifest, config: StageConfig, weights: str, evaluated: Manifest) -> bool:
    origin = {
        "specDigest": config.job.spec_digest,
        "trainedDigest": weights,
        "evaluatedDigest": evaluated.digest,
    }
    return all(present.provenance.get(key) == value for key, value in origin.items())


def _assemble(context: StageContext, artifact: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Write the files of the artifact to the directory ``artifact``.

    Returns:
        The provenance for the manifest. It contains no times or host names, so that the digest is reproducible.
    """
    config, workspace = context.config, context.workspace
    trained, evaluated, prepared = workspace / "trained", workspace / "evaluated", workspace / "prepared"
    trained_manifest = fetch_directory(config.layout.trained, trained)
    evaluated_manifest = fetch_directory(config.layout.evaluated, evaluated)
    prepared_manifest = _fetch_description(config.layout.prepared, prepared)
    data = read_report(prepared)
    spec = effective_spec(config.spec, data)

    history, training = read_json_if_present(trained / layout.HISTORY), read_json_if_present(trained / layout.TRAINING)
    exports = [export_of(export) for export in spec.exports]
    for export in exports:
        export.write(ExportInputs(spec, data, trained), artifact)
    shutil.copytree(prepared / layout.TOKENIZER_DIRECTORY, artifact, dirs_exist_ok=True)
    form_for(spec, data.family).finish_artifact(artifact, data, spec)
    for name in (layout.EVALUATION, layout.REPORT):
        shutil.copyfile(evaluated / name, artifact / name)
    if (prepared / layout.LEARNED_ROWS).is_file():  # An earlier version has none.
        shutil.copyfile(prepared / layout.LEARNED_ROWS, artifact / layout.LEARNED_ROWS)
    (artifact / layout.CURVES).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    card = render_card(
        CardInputs(
            job=config.job,
            spec=spec,
            data=data,
            evaluation=evaluation,
            training=training,
            export=exports[0],
            chat_template=_has_chat_template(artifact),
            predictions=_predictions(evaluated) if spec.evaluation.report.include_examples else (),
        )
    )
    (artifact / layout.MODEL_CARD).write_text(card, encoding="utf-8")
    return {
        "job": config.job.model_dump(mode="json"),
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "specDigest": config.job.spec_digest,
        "trainingDigest": config.job.training_digest,
        "inputsDigest": data.inputs_digest,
        "model": data.model.model_dump(mode="json"),
        **({"adapter": {"uri": data.continued.uri, "digest": data.continued.digest}} if data.continued else {}),
        "data": _data_provenance(data, prepared_manifest.digest),
        "use": report_for_use(data),
        "trainedDigest": trained_manifest.digest,
        "evaluatedDigest": evaluated_manifest.digest,
        "evaluation": evaluation.model_dump(mode="json", exclude_none=True),
        "baseline": evaluated_manifest.provenance.get("baseline", {}),
        "training": training,
    }


def _predictions(evaluated: Path) -> Iterator[dict[str, Any]]:
    with (evaluated / layout.PREDICTIONS).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _fetch_description(uri: str, target: Path) -> Manifest:
    """Fetch what the prepared data says about itself, but not its examples."""
    manifest = _manifest(uri, "prepare")
    described = (layout.DATA_REPORT, layout.LEARNED_ROWS)
    fetch_files(
        uri,
        manifest,
        lambda path: path in described or path.startswith(f"{layout.TOKENIZER_DIRECTORY}/"),
        target,
    )
    return manifest


def _data_provenance(data: DataReport, digest: str) -> dict[str, Any]:
    return {
        "preparedDigest": digest,
        "sources": [source.model_dump(mode="json") for source in data.sources],
        "examples": {name: split.examples for name, split in data.splits.items()},
    }


def _has_chat_template(artifact: Path) -> bool:
    if (artifact / "chat_template.jinja").is_file():
        return True
    return bool(read_json_if_present(artifact / "tokenizer_config.json").get("chat_template"))


def _clean_up(config: StageConfig) -> str:
    """Delete what is no longer needed; returns a note about what stays because storage forbids its deletion.

    Raises:
        StageFailure: A failure that a retry may solve.
    """
    kept: list[StageFailure] = []
    for find in (_superseded, _of_other_revisions):
        try:
            uris = find(config)
        except StageFailure as failure:
            kept.append(_lasting(failure))
            continue
        for uri in uris:
            try:
                storage.delete_tree(uri)
            except StageFailure as failure:
                kept.append(_lasting(failure))
    if not kept:
        return ""
    more = f", and {len(kept) - 1} more stay" if len(kept) > 1 else ""
    note = f"not cleaned up: {kept[0].message}{more}"
    log.warning("%s", note)
    return note if len(note) <= LONG_NOTE_LENGTH else f"{note[: LONG_NOTE_LENGTH - 1]}…"


def _lasting(failure: StageFailure) -> StageFailure:
    """``failure``; raises it instead if the operator tries the stage again."""
    if failure.reason.row.retry is not Retry.NEVER:
        raise failure
    return failure


def _superseded(config: StageConfig) -> list[str]:
    """The prepared data, and all but the newest complete checkpoints, as ``output.keep`` specifies."""
    keep = config.spec.output.keep
    found = stored_checkpoints(config.layout.checkpoints)
    newest = sorted((step for step, complete in found.items() if complete), reverse=True)[: keep.checkpoints]
    log.info("keeping %d checkpoints", len(newest))
    checkpoints = [config.layout.checkpoint(step) for step in sorted(found.keys() - newest)]
    return checkpoints if keep.prepared_data else [*checkpoints, config.layout.prepared]


def _of_other_revisions(config: StageConfig) -> list[str]:
    """What the other revisions of this job need only to continue: data, checkpoints and weights.

    Their evaluations and artifacts are kept, and the directories of other jobs, such as one of the same name on another
    cluster.
    """
    job = config.job
    of_job = JobLayout.of(config.spec.output.uri, job.namespace, job.name)
    numbers = (JobLayout.revision_of(path) for path, _ in storage.list_files(of_job.uri))
    found = {number for number in numbers if number is not None}
    uris: list[str] = []
    for number in sorted(found - {job.revision, job.training_revision}):
        other = of_job.revision(number)
        holder = read_holder(other.lock)
        if holder is not None and holder.uid == job.uid:
            log.info("deleting data, checkpoints and weights of revision %d", number)
            uris += [other.prepared, other.checkpoints, other.trained]
    return uris
