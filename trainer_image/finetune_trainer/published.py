"""Reads what a published artifact says about itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import ADAPTER_CONFIG, MODEL_CONFIG
from finetune_api.manifest import MANIFEST_NAME, Manifest
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer import storage
from finetune_trainer.manifests import TornDirectory, fetch_files, read_manifest
from finetune_trainer.prepared import DataReport, use_report


@dataclass(frozen=True)
class Published:
    """An artifact in storage."""

    uri: str
    field: str
    """The field that names it, for messages."""
    manifest: Manifest
    spec: FineTuneJobSpec
    """The spec that it was published with."""
    data: DataReport
    """What is needed to use it; without the data that it was trained on."""

    @property
    def is_adapter(self) -> bool:
        return any(entry.path == ADAPTER_CONFIG for entry in self.manifest.files)

    def fetch(self, target: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
        """Download its files whose paths are ``wanted``.

        Raises:
            StageFailure: BadData when it is incomplete or corrupt; otherwise as functions of `storage`.
        """
        try:
            fetch_files(self.uri, self.manifest, wanted, target)
        except TornDirectory as torn:
            raise _torn(self.field, torn) from None


def description(manifest: Manifest) -> tuple[FineTuneJobSpec, DataReport] | None:
    """The spec and the data report of an artifact, from its manifest; None if this version did not publish it."""
    try:
        spec = FineTuneJobSpec.model_validate_json(json.dumps(manifest.provenance["spec"]))
        return spec, use_report(manifest.provenance["use"])
    except (KeyError, ValidationError):
        return None


def read_published(uri: str, digest: str | None, field: str) -> Published:
    """Read the manifest of the artifact at ``uri``.

    Args:
        uri: Its address.
        digest: The digest that it must have; None for any.
        field: The field of the spec that names it, for messages.

    Raises:
        StageFailure: NotFound when there is nothing; BadConfiguration when it is no artifact that finetune published,
            or has another digest; BadData when its manifest is invalid; otherwise as functions of `storage`.
    """
    try:
        manifest = read_manifest(uri)
    except TornDirectory as torn:
        raise _torn(field, torn) from None
    if manifest is None:
        raise _not_published(uri, field)
    if digest and manifest.digest != digest:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{field}: {uri} has the digest {manifest.digest}, not {digest}: it is another artifact; correct the "
            "address or the digest",
        )
    known = description(manifest)
    if known is None:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{field}: {uri} is no artifact that this version of finetune published: name the directory 'artifact' of "
            "a revision, or publish it again with finetune run --fresh",
        )
    return Published(uri, field, manifest, *known)


def _not_published(uri: str, field: str) -> StageFailure:
    names = {path for path, _ in storage.list_files(uri)}
    if not names:
        return StageFailure(Reason.NOT_FOUND, f"{field}: there is no artifact at {uri}: correct the address")
    if f"artifact/{MANIFEST_NAME}" in names:
        advice = f"it is the directory of a revision: name {uri.rstrip('/')}/artifact"
    elif ADAPTER_CONFIG in names:
        advice = (
            "without it, the base model and the settings of an adapter of other tools cannot be checked: merge the "
            "adapter into its base model with merge_and_unload of PEFT, and set model.uri to the result, or train one "
            "with finetune first"
        )
    elif MODEL_CONFIG in names:
        advice = f"it is a whole model: set model.uri to it, and remove {field}"
    else:
        advice = "name an artifact that finetune published, or train one with finetune first"
    return StageFailure(
        Reason.BAD_CONFIGURATION,
        f"{field}: {uri} has no {MANIFEST_NAME}, which every artifact of finetune has; {advice}",
    )


def _torn(field: str, torn: TornDirectory) -> StageFailure:
    return StageFailure(
        Reason.BAD_DATA,
        f"{field}: {torn.uri} is incomplete or corrupt: {torn.file} {torn.difference}; copy it again, or name another "
        "artifact",
    )
