"""Why the name of a child is taken: by an orphan, another FineTuneJob, a Helm release, or somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.base import KIND
from finetune_api.stage import JobIdentity
from finetune_core import names

_HELM_RELEASE = "meta.helm.sh/release-name"


def is_own(existing: Mapping[str, Any], job: JobIdentity) -> bool:
    """Whether ``job`` owns the object."""
    owner = _controller(existing["metadata"])
    return owner is not None and owner.get("uid") == job.uid


def owner_of_name(existing: Mapping[str, Any], job: JobIdentity) -> str:
    """Who has the name that a child of ``job`` needs, and what to do, as sentences."""
    metadata = existing["metadata"]
    what = f"{existing['kind']} {metadata['name']} already exists and is not owned by this {KIND}"
    owner, labels = _controller(metadata), metadata.get("labels") or {}
    if owner and owner["kind"] == KIND and owner["name"] == job.name:
        return (
            f"{what}, but by a deleted one of the same name. It starts when Kubernetes has removed that; if it stays, "
            f"{_delete(existing)}."
        )
    if owner:
        return f"{what}, but by {owner['kind']} {owner['name']}. Rename this {KIND}, or delete that {owner['kind']}."
    if names.MANAGED_LABELS.items() <= labels.items() and labels.get(names.JOB_LABEL) == job.name:
        return (
            f"{what}: it is an orphan of one of the same name that was deleted without its children "
            f"(--cascade=orphan). If its pods are not needed, {_delete(existing)}."
        )
    if release := (metadata.get("annotations") or {}).get(_HELM_RELEASE):
        return f"{what}, but by the Helm release {release}. Rename this {KIND}, or the object in that release."
    managers = [entry.get("manager", "") for entry in metadata.get("managedFields") or ()]
    by = f" {managers[0]} created it." if managers and managers[0] else ""
    return f"{what}.{by} Delete it, or rename this {KIND}."


def _controller(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")), None)


def _delete(existing: Mapping[str, Any]) -> str:
    metadata = existing["metadata"]
    return f"delete it: kubectl -n {metadata['namespace']} delete {existing['kind'].lower()} {metadata['name']}"
