"""The credentials of each stage: only those for what it reads and writes."""

from __future__ import annotations

from typing import Any

from finetune_api.secrets import SecretRole, references
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Stage

_NEEDED_BY: dict[Stage, tuple[SecretRole, ...]] = {
    Stage.PREPARE: tuple(SecretRole),
    Stage.RESPOND: tuple(role for role in SecretRole if role not in (SecretRole.ENDPOINT, SecretRole.HARNESS)),
    Stage.TRAIN: (SecretRole.MODEL, SecretRole.TEACHER, SecretRole.OUTPUT),
    Stage.EVALUATE: (SecretRole.MODEL, SecretRole.TEACHER, SecretRole.HARNESS, SecretRole.OUTPUT),
    Stage.PUBLISH: (SecretRole.OUTPUT,),
}


def environment_from(stage: Stage, spec: FineTuneJobSpec) -> list[dict[str, Any]]:
    """``envFrom`` of a stage's container: each Secret with the prefix of its role."""
    named, needed = references(spec), set(_NEEDED_BY[stage])
    if stage in (Stage.TRAIN, Stage.EVALUATE) and spec.model.endpoint:
        needed.add(SecretRole.ENDPOINT)  # A teacher is only asked in prepare.
    given = [role for role in SecretRole if role in needed and role in named]
    return [{"prefix": role.prefix, "secretRef": {"name": named[role]}} for role in given]
