"""How each model family is handled: ``families.json``, which ``tests/families`` writes, and the decision of prepare.

The file has an object for each PEFT task type, such as CAUSAL_LM, with an entry for each model type that transformers
maps to a model class of that task. It needs no torch, so prepare decides before a GPU is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, MethodType
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.prepared import ModelHandling


class Limit(StrEnum):
    """What a model family cannot do correctly."""

    PACKING = "packing"
    """Conversations that share a row influence each other."""
    BATCH = "batch"
    """The outputs of a row depend on the padding at its right end."""
    GENERATION = "generation"
    """Generated answers depend on the padding at the left end of the prompt."""


class Family(BaseModel):
    """The entry of a model type for one task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_class: str = Field(description="Class of transformers, such as LlamaForCausalLM.")
    attention: str | None = Field(default=None, description="Attention implementation that was tested: sdpa or eager.")
    limits: tuple[Limit, ...] = ()
    untrained: tuple[str, ...] = Field(
        default=(), description="Ends of the names of linear layers to which training gives no gradient."
    )
    unused_parameters: bool = Field(default=False, description="Whether other parameters get no gradient either.")
    requires: Mapping[str, Any] = Field(default={}, description="Values that config.json must have.")
    without: Mapping[MethodType, str] = Field(
        default={}, description="Methods that the family cannot be tuned with, and why; a clause."
    )
    refused: str | None = Field(default=None, description="Why the family cannot be tuned; a clause.")
    untested: str | None = Field(default=None, description="Why there is no result; a clause.")


class Families(BaseModel):
    """``families.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transformers: str = Field(description="Version of transformers that was tested.")
    peft: str = Field(description="Version of PEFT that was tested.")
    tasks: Mapping[str, Mapping[str, Family]] = Field(description="Entries by PEFT task type and model type.")
    others: tuple[str, ...] = Field(description="Model types without a model class for any of the tasks.")


@cache
def load_families() -> Families:
    """The content of ``families.json``."""
    return Families.model_validate_json((files(__package__) / "families.json").read_bytes())


CAUSAL_LM = "CAUSAL_LM"
"""PEFT task type of decoders that generate text."""


def family_of(families: Families, config: Mapping[str, Any], supported: Sequence[ModelFamily]) -> ModelFamily:
    """The family of a model, out of those that a task supports; `decide_handling` refuses one that fits none.

    Args:
        families: The test results.
        config: ``config.json`` of the model.
        supported: The families that the task supports.
    """
    names = config.get("architectures")
    if isinstance(names, list) and names and str(names[0]).endswith("ForQuestionAnswering"):
        # It has a trained span head, whatever model is below it.
        order = (ModelFamily.ENCODER, ModelFamily.CAUSAL, ModelFamily.SEQ2SEQ)
    elif config.get("is_encoder_decoder") is True:
        order = (ModelFamily.SEQ2SEQ, ModelFamily.ENCODER, ModelFamily.CAUSAL)
    elif _generates(families, config):
        order = (ModelFamily.CAUSAL, ModelFamily.ENCODER, ModelFamily.SEQ2SEQ)
    else:
        order = (ModelFamily.ENCODER, ModelFamily.CAUSAL, ModelFamily.SEQ2SEQ)
    return next(family for family in order if family in supported)


def _generates(families: Families, config: Mapping[str, Any]) -> bool:
    """Whether a model is a decoder that generates text; encoders such as BERT are one only if config.json says so."""
    found = families.tasks[CAUSAL_LM].get(str(config.get("model_type")))
    if found is None or any(config.get(key) != value for key, value in found.requires.items()):
        return False
    names = config.get("architectures")
    return not (found.refused and isinstance(names, list) and not str(names[0]).endswith(("CausalLM", "LMHeadModel")))


def decide_handling(
    families: Families,
    spec: FineTuneJobSpec,
    config: Mapping[str, Any],
    *,
    adapter_task: str,
    family: ModelFamily,
    labels: tuple[str, ...],
    installed: str,
) -> ModelHandling:
    """Decide how training and evaluation handle the model.

    Args:
        families: The test results.
        spec: The spec of the job.
        config: ``config.json`` of the base model.
        adapter_task: PEFT task type of the task, such as CAUSAL_LM.
        family: The result of `family_of`.
        labels: Labels of the job in order of their index; empty for a task without labels.
        installed: Version of the installed transformers.

    Raises:
        StageFailure: BadConfiguration when the model cannot be tuned for the task, or not with training.packing.
    """
    entry = _entry(families, spec, config, adapter_task, installed)
    limits = set(entry.limits) if entry.untested is None else set(Limit)
    return ModelHandling(
        model_class=entry.model_class,
        tested=entry.untested is None,
        packing=_packing(spec, entry, family, limits),
        batching=Limit.BATCH not in limits,
        batched_generation=Limit.GENERATION not in limits and not spec.method.virtual_tokens,
        attention=entry.attention,
        untrained=entry.untrained,
        unused_parameters=entry.unused_parameters or entry.untested is not None,
        new_head=bool(labels) and base_labels(config) != labels,
        notes=(
            *_notes(families, spec, entry, family, limits),
            *_head_note(config, labels),
            *_type_note(spec, config, adapter_task),
        ),
    )


def base_labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The labels of a base model that is a classifier, in order of their index; None for other models."""
    architectures = config.get("architectures") or ()
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return None
    names = config.get("id2label")
    if not isinstance(names, dict) or not all(str(index).isdecimal() for index in names):
        return None
    return tuple(str(names[index]) for index in sorted(names, key=int))


def _entry(
    families: Families,
    spec: FineTuneJobSpec,
    config: Mapping[str, Any],
    adapter_task: str,
    installed: str,
) -> Family:
    """The entry of the model, checked."""
    model_type, uri, task = config.get("model_type"), spec.model.uri, spec.task.type
    if not isinstance(model_type, str):
        raise _bad(f"config.json of {uri} has no model_type: save the model again with save_pretrained")
    found = families.tasks[adapter_task].get(model_type)
    if found is None:
        if model_type in families.others or any(model_type in entries for entries in families.tasks.values()):
            raise _bad(
                f"transformers has no model class for {task} with model_type {json.dumps(model_type)} of {uri}: choose "
                "another model or another task"
            )
        if installed == families.transformers:
            raise _bad(
                f"model_type {json.dumps(model_type)} of {uri} is unknown to transformers {installed}: choose a model "
                "that transformers loads without code from the model's repository"
            )
        if spec.method.virtual_tokens:
            raise _bad(
                f"method {spec.method.type} was not tested with model_type {json.dumps(model_type)} of {uri} and "
                f"transformers {installed}: use LoRA"
            )
        return Family(model_class=model_type, untested=f"transformers {installed} is installed")
    if found.refused:
        raise _bad(f"{found.model_class} of {uri} cannot be tuned for {task}: {found.refused}; choose another model")
    if (why := found.without.get(spec.method.type)) or (found.untested and spec.method.virtual_tokens):
        raise _bad(
            f"method {spec.method.type} is not for {found.model_class} of {uri} and {task}: "
            f"{why or found.untested}; use LoRA"
        )
    for key, value in found.requires.items():
        if config.get(key) != value:
            raise _bad(
                f"{uri} is no model for {task}: as {found.model_class}, a token would see the tokens after it, because "
                f"config.json does not have {json.dumps(key)}: {json.dumps(value)}; choose a generative model"
            )
    return found


def _packing(spec: FineTuneJobSpec, entry: Family, family: ModelFamily, limits: Collection[Limit]) -> bool:
    packs = family in spec.task.type.row.packs
    if not spec.packing or (packs and Limit.PACKING not in limits):
        return spec.packing
    if spec.training.packing:
        untested = packs and entry.untested
        cause = "was not tested with packing" if untested else "does not separate the examples of a packed row"
        raise _bad(f"training.packing is true, but {entry.model_class} {cause}: set training.packing to false")
    return False


def _notes(
    families: Families, spec: FineTuneJobSpec, entry: Family, family: ModelFamily, limits: Collection[Limit]
) -> list[str]:
    """What is done differently for this model, one sentence each."""
    name, row = entry.model_class, spec.task.type.row
    packs = family in row.packs
    unpacked = spec.method.type.row.never_packed
    if entry.untested is not None:
        packing = " without packing and" if packs else ""
        return [
            f"{name} is untested with transformers {families.transformers} ({entry.untested}): it runs{packing} one "
            "example at a time"
        ]
    notes = []
    if packs and unpacked and spec.method.type.row.trains:
        notes.append(f"packing is off with method {spec.method.type}, {unpacked}")
    if Limit.PACKING in limits and packs and spec.packing:
        notes.append(f"packing is off, because {name} does not separate the examples of a packed row")
    if Limit.BATCH in limits:
        notes.append(f"examples run one at a time, because the outputs of {name} depend on padding")
    elif Limit.GENERATION in limits and family in row.generates:
        notes.append(f"answers are generated one at a time, because those of {name} depend on padding")
    if entry.attention == "eager":
        notes.append(f"attention is eager, because {name} has no SDPA implementation")
    return notes


def _head_note(config: Mapping[str, Any], labels: tuple[str, ...]) -> list[str]:
    present = base_labels(config)
    if not labels or present is None:
        return []
    if present == labels:
        return ["the classification head of the base model is kept, because it has the labels of the job in this order"]
    shown = ", ".join(present[:3]) + (", …" if len(present) > 3 else "")
    return [
        f"the classification head of the base model, with {len(present)} labels ({shown}), is replaced by a new one, "
        "because its labels differ from those of the job"
    ]


def _type_note(spec: FineTuneJobSpec, config: Mapping[str, Any], adapter_task: str) -> list[str]:
    types = config.get("type_vocab_size")
    if not spec.method.virtual_tokens or adapter_task != "QUESTION_ANS" or not isinstance(types, int) or types < 2:
        return []
    return [
        f"with method {spec.method.type} PEFT does not tell the model which tokens are the question (token_type_ids), "
        "in training as in use: the separator between question and context has to do"
    ]


def _bad(message: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, message)
