"""The train stage in one worker process, except for the parts that need torch."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from finetune_api.manifest import Manifest
from finetune_api.stage import StageConfig, TrainResult
from finetune_trainer.context import StageContext
from finetune_trainer.host.inputs import wait_for_inputs
from finetune_trainer.importing import heavy_imports
from finetune_trainer.manifests import publish_directory, read_manifest
from finetune_trainer.methods import method_of
from finetune_trainer.methods.base import Work


def run(context: StageContext) -> TrainResult:
    """Do what the method does, usually train the model; if an earlier attempt has stored the result, return it.

    Raises:
        StageFailure: BadConfiguration, BadData, Diverged, OutOfMemory, Stopped, and the failures of storage.
    """
    config = context.config
    is_main = os.environ["RANK"] == "0"
    if done := _done(config):
        return _result(done.provenance["result"], config, done.digest)
    if is_main:
        context.reporter.progress("importing torch and transformers")
    # The imports are slow; the host fetches the inputs meanwhile.
    with heavy_imports():
        module, _, function = method_of(config.spec.method.type).work.partition(":")
        work: Work = getattr(import_module(module), function)()
    inputs = wait_for_inputs(Path(config.workspace))
    trained = work(context, inputs)
    if not is_main:
        return _result(trained.summary, config, digest="")
    context.reporter.progress(f"uploading the {config.spec.method.type.row.result}")
    provenance = {
        "trainingDigest": config.job.training_digest,
        "inputsDigest": inputs.inputs_digest,
        "preparedDigest": inputs.prepared_digest,
        "result": trained.summary,
    }
    manifest = publish_directory(trained.directory, config.layout.trained, provenance)
    return _result(trained.summary, config, manifest.digest)


def _done(config: StageConfig) -> Manifest | None:
    """The trained weights that an earlier attempt has stored for the same spec, data and base model."""
    # Every rank asks, and usually nothing is stored yet.
    trained = read_manifest(config.layout.trained)
    prepared = read_manifest(config.layout.prepared) if trained else None
    if trained is None or prepared is None:
        return None
    wanted = {"trainingDigest": config.job.training_digest, "inputsDigest": prepared.provenance.get("inputsDigest")}
    return trained if all(trained.provenance.get(key) == value for key, value in wanted.items()) else None


def _result(summary: dict[str, Any], config: StageConfig, digest: str) -> TrainResult:
    return TrainResult.model_validate({**summary, "uri": config.layout.trained, "digest": digest}, strict=False)
