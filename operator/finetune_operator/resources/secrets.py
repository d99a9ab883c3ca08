"""The credentials of each stage: only those for what it reads and writes."""

from __future__ import annotations

from typing import Any

from finetune_api.secrets import SecretRole, references
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Stage

_OF_ENDPOINTS = (SecretRole.ENDPOINT, SecretRole.PROPOSER)
_NEEDED_BY: dict[Stage, tuple[SecretRole, ...]] = {
    Stage.PREPARE: tuple(role for role in SecretRole if role not in _OF_ENDPOINTS),
    Stage.RESPOND: tuple(role for role in SecretRole if role not in (*_OF_ENDPOINTS, SecretRole.HARNESS)),
    Stage.TRAIN: (SecretRole.MODEL, SecretRole.TEACHER, SecretRole.OUTPUT),
    Stage.EVALUATE: (SecretRole.MODEL, SecretRole.TEACHER, SecretRole.HARNESS, SecretRole.OUTPUT),
    Stage.PUBLISH: (SecretRole.OUTPUT,),
}


def environment_from(stage: Stage, spec: FineTuneJobSpec) -> list[dict[str, Any]]:
    """``envFrom`` of a stage's container: each Secret with the prefix of its role."""
    named, needed = references(spec), {*_NEEDED_BY[stage], *_asked_by(stage, spec)}
    given = [role for role in SecretRole if role in needed and role in named]
    return [{"prefix": role.prefix, "secretRef": {"name": named[role]}} for role in given]


def _asked_by(stage: Stage, spec: FineTuneJobSpec) -> tuple[SecretRole, ...]:
    """The endpoints that a stage asks."""
    if stage is Stage.TRAIN:
        return (SecretRole.PROPOSER, *((SecretRole.ENDPOINT,) if spec.model.endpoint else ()))
    asks = spec.model.endpoint if stage is Stage.EVALUATE else spec.distillation if stage is Stage.PREPARE else None
    return (SecretRole.ENDPOINT,) if asks else ()
