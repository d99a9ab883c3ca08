"""Carries out *publish*: puts the artifact together, stores it under one digest, and removes what need not stay."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from finetune_api.evaluation import Evaluation
from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import MANIFEST_NAME, Manifest
from finetune_api.stage import PublishResult, StageConfig
from finetune_trainer import storage
from finetune_trainer.context import StageContext
from finetune_trainer.evaluate.stage import (
    EVALUATION_NAME,
    HISTORY_NAME,
    REPORT_NAME,
    TRAINING_NAME,
    read_evaluation,
)
from finetune_trainer.manifests import TornDirectory, fetch_directory, hash_files, publish_directory, read_manifest
from finetune_trainer.prepared import REPORT_NAME as DATA_NAME
from finetune_trainer.prepared import TOKENIZER_DIRECTORY, DataReport, read_report
from finetune_trainer.publish.artifact import finish_configuration, is_adapter, move_weights
from finetune_trainer.publish.model_card import CardInputs, render_card

CARD_NAME = "README.md"
CURVES_NAME = "curves.json"

_STEP = re.compile(r"(\d+)$")
_log = logging.getLogger(__name__)


def run(context: StageContext) -> PublishResult:
    """Publish the trained weights with everything that says where they come from.

    Doing it again gives the same digest, also after the prepared data has been removed.

    Raises:
        StageFailure: NotFound (nothing trained, evaluated or prepared), BadConfiguration (a gate has failed, or another
            run has published to the same address), and as storage does.
    """
    config, reporter = context.config, context.reporter
    trained = _manifest(config.trained_uri, "train")
    evaluated = _manifest(config.evaluated_uri, "evaluate")
    evaluation = read_evaluation(config.evaluated_uri)
    _check(config, evaluation, trained, evaluated)
    manifest = read_manifest(config.artifact_uri)
    if manifest is None:
        reporter.progress("putting the artifact together")
        artifact = context.workspace / "artifact"
        shutil.rmtree(artifact, ignore_errors=True)
        artifact.mkdir()
        provenance = _assemble(context, artifact, evaluation)
        reporter.progress("uploading the artifact")
        manifest = publish_directory(artifact, config.artifact_uri, provenance)
    elif not _same_origin(manifest, config, trained, evaluated):
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"Another run has published to {config.artifact_uri} already; give this job another name or output.uri",
        )
    reporter.progress("removing what need not stay")
    _clean(config)
    return PublishResult(uri=config.artifact_uri, digest=manifest.digest, size=manifest.size)


def _manifest(uri: str, stage: str) -> Manifest:
    manifest = read_manifest(uri)
    if manifest is None:
        raise StageFailure(Reason.NOT_FOUND, f"There is nothing at {uri}; run the {stage} stage first")
    return manifest


def _check(config: StageConfig, evaluation: Evaluation, trained: Manifest, evaluated: Manifest) -> None:
    if evaluated.provenance.get("trainedDigest") != trained.digest:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{config.evaluated_uri} is of other weights than {config.trained_uri}; run the evaluate stage again",
        )
    failed = [str(gate.metric) for gate in evaluation.gates if not gate.passed]
    if failed:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"Nothing is published because the gate on {', '.join(failed)} failed; look at "
            f"{config.evaluated_uri}/{REPORT_NAME}",
        )


def _same_origin(present: Manifest, config: StageConfig, trained: Manifest, evaluated: Manifest) -> bool:
    origin = {
        "specDigest": config.job.spec_digest,
        "trainedDigest": trained.digest,
        "evaluatedDigest": evaluated.digest,
    }
    return all(present.provenance.get(key) == value for key, value in origin.items())


def _assemble(context: StageContext, artifact: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Fill ``artifact`` and return the provenance of its manifest, which holds no time and no host."""
    config, workspace = context.config, context.workspace
    trained, evaluated, prepared = workspace / "trained", workspace / "evaluated", workspace / "prepared"
    trained_manifest = fetch_directory(config.trained_uri, trained)
    evaluated_manifest = fetch_directory(config.evaluated_uri, evaluated)
    prepared_manifest = _fetch_description(config.prepared_uri, prepared)
    data = read_report(prepared)

    history, training = _read(trained / HISTORY_NAME), _read(trained / TRAINING_NAME)
    move_weights(trained, artifact)
    shutil.copytree(prepared / TOKENIZER_DIRECTORY, artifact, dirs_exist_ok=True)
    finish_configuration(artifact, data, config.spec.model.uri)
    for name in (EVALUATION_NAME, REPORT_NAME):
        shutil.copyfile(evaluated / name, artifact / name)
    (artifact / CURVES_NAME).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    card = render_card(
        CardInputs(
            job=config.job,
            spec=config.spec,
            data=data,
            evaluation=evaluation,
            training=training,
            end_tokens=evaluated_manifest.provenance.get("baseline", {}).get("endTokens", ()),
            adapter=is_adapter(artifact),
            chat_template=_has_chat_template(artifact),
        )
    )
    (artifact / CARD_NAME).write_text(card, encoding="utf-8")
    return {
        "job": config.job.model_dump(mode="json"),
        "spec": config.spec.model_dump(mode="json", exclude_none=True),
        "specDigest": config.job.spec_digest,
        "model": data.model.model_dump(mode="json"),
        "data": _data_provenance(data, prepared_manifest.digest),
        "trainedDigest": trained_manifest.digest,
        "evaluatedDigest": evaluated_manifest.digest,
        "evaluation": evaluation.model_dump(mode="json", exclude_none=True),
        "baseline": evaluated_manifest.provenance.get("baseline", {}),
        "training": training,
    }


def _fetch_description(uri: str, target: Path) -> Manifest:
    """Fetch report and tokenizer of the prepared data, checked against its manifest; the examples are not fetched."""
    manifest = _manifest(uri, "prepare")
    wanted = {
        entry.path: entry
        for entry in manifest.files
        if entry.path == DATA_NAME or entry.path.startswith(f"{TOKENIZER_DIRECTORY}/")
    }
    for path in wanted:
        storage.download_file(storage.join(uri, path), target / path)
    for entry in hash_files(target, wanted):
        if entry != wanted[entry.path]:
            raise TornDirectory(uri, entry.path, "has other content than its manifest says")
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
    return bool(_read(artifact / "tokenizer_config.json").get("chat_template"))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def _clean(config: StageConfig) -> None:
    """Honour ``output.keep``: delete all but the newest complete checkpoints, and the prepared data."""
    keep = config.spec.output.keep
    found: dict[str, bool] = {}
    for path, _ in storage.list_files(config.checkpoints_uri):
        name, _, rest = path.partition("/")
        if rest and _STEP.search(name):
            found[name] = found.get(name, False) or rest == MANIFEST_NAME
    newest = sorted((name for name, complete in found.items() if complete), key=_step, reverse=True)[: keep.checkpoints]
    for name in found.keys() - newest:
        storage.delete_tree(storage.join(config.checkpoints_uri, name))
    if not keep.prepared_data:
        storage.delete_tree(config.prepared_uri)
    _log.info("kept %d checkpoints", len(newest))


def _step(name: str) -> int:
    match = _STEP.search(name)
    return int(match[1]) if match else -1
