"""Digests of the parts of a spec that determine the result, and of those that determine the weights."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from finetune_api.base import ApiModel
from finetune_api.method_settings import PreferenceSpec, PromptSearchSpec
from finetune_api.spec import DistillationSpec, Documents, EndpointSpec, FineTuneJobSpec, MethodSpec
from finetune_api.spec.rules import default_columns
from finetune_api.tables.methods import METHODS

RESULT_FIELDS = ("model", "task", "dataset", "method", "distillation", "training", "evaluation", "output")
"""Fields of the spec that determine the result; a change to any of them starts a new revision."""
TRAINING_FIELDS = {
    **dict.fromkeys(("model", "task", "dataset", "method", "distillation", "training"), True),
    "output": {"uri": True},
    "evaluation": {"allow_code_execution": True},  # Prepare leaves out rows whose tests fail when they run.
}
"""Fields of the spec that determine the trained weights and their address."""
_SEARCH_FIELDS = {
    **TRAINING_FIELDS,
    "evaluation": dict.fromkeys(("metrics", "generation", "gates", "allow_code_execution"), True),
}
"""Those that determine a prompt, which is chosen by the score of generated answers."""

Model = TypeVar("Model", bound=ApiModel)

_DEFAULT_EPOCHS = 3.0
_DEFAULT_SETTINGS: dict[str, ApiModel] = {
    "preference": PreferenceSpec(),
    **{
        row.settings.field: row.settings.model()
        for row in METHODS.values()
        if row.settings and not row.settings.required
    },
}


def spec_digest(spec: FineTuneJobSpec) -> str:
    """``sha256:<hex>`` over the fields of the spec that determine the result.

    Fields with their default value are excluded, so that neither an explicit default nor an upgrade that adds fields
    starts a new revision. Secret names are also excluded.
    """
    return _digest(spec, dict.fromkeys(RESULT_FIELDS, True))


def training_digest(spec: FineTuneJobSpec) -> str:
    """``sha256:<hex>`` over the fields of the spec that determine the trained weights, as `spec_digest`."""
    return _digest(spec, TRAINING_FIELDS if spec.method.type.row.trains else _SEARCH_FIELDS)


def _digest(spec: FineTuneJobSpec, fields: dict[str, Any]) -> str:
    chosen = _without_defaults(spec).model_dump(mode="json", exclude_defaults=True, include=fields)
    # A part is empty if only fields of it that do not count are set.
    decisive = {name: value for name, value in chosen.items() if value != {}}
    return "sha256:" + hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _without_defaults(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """``spec`` without Secret names, and without values equal to a default that depends on other fields."""
    training, method, dataset, evaluation = spec.training, spec.method, spec.dataset, spec.evaluation
    validation, test = dataset.validation, dataset.test
    adapter = spec.model.adapter and _without_secret(spec.model.adapter)
    endpoint = spec.model.endpoint and _unhurried(spec.model.endpoint)
    unset = spec.model_copy(update={"training": training.model_copy(update={"learning_rate": None, "packing": None})})
    training_defaults = {
        "epochs": _DEFAULT_EPOCHS,
        "learning_rate": unset.learning_rate,
        "packing": unset.packing,
    }
    return spec.model_copy(
        update={
            "training": _without(training, training_defaults),
            # Method settings that are omitted are those of the adapter, and not the default.
            "method": _method(method if spec.model.adapter else _without(method, _DEFAULT_SETTINGS)),
            "dataset": dataset.model_copy(
                update={
                    "train": _without_secret(dataset.train),
                    "validation": _without_secret(validation),
                    "test": _without_secret(test),
                    "columns": _without(dataset.columns, default_columns(spec.task.type)),
                    "documents": None if dataset.documents is Documents.FILE else dataset.documents,
                }
            ),
            "model": _without_secret(spec.model.model_copy(update={"adapter": adapter, "endpoint": endpoint})),
            "distillation": spec.distillation and _distillation(spec.distillation),
            "output": _without_secret(spec.output),
            "evaluation": _without(evaluation, {"metrics": spec.default_metrics}),
        }
    )


def _unhurried(endpoint: EndpointSpec) -> EndpointSpec:
    """``endpoint`` without the name of its Secret, and without how fast it is asked."""
    default = EndpointSpec.model_fields["max_concurrency"].default
    return _without_secret(endpoint).model_copy(update={"max_concurrency": default})


def _method(method: MethodSpec) -> MethodSpec:
    """``method`` without Secret names, and without how fast an endpoint is asked."""
    search = method.settings
    if not isinstance(search, PromptSearchSpec) or search.proposer is None:
        return method
    changed = search.model_copy(update={"proposer": _unhurried(search.proposer)})
    return method.model_copy(update={"prompt_search": changed})


def _distillation(distillation: DistillationSpec) -> DistillationSpec:
    """``distillation`` without Secret names, and without how fast an endpoint is asked and what it costs."""
    teacher = _without_secret(distillation.teacher).model_copy(update={"prices": None})
    if endpoint := teacher.endpoint:
        teacher = teacher.model_copy(update={"endpoint": _unhurried(endpoint)})
    return distillation.model_copy(update={"teacher": teacher})


def _without_secret(part: Model) -> Model:
    """``part`` without the name of its Secret, because credentials do not affect the result."""
    return part.model_copy(update={"secret_ref": None})


def _without(model: Model, defaults: dict[str, Any]) -> Model:
    return model.model_copy(update={name: None for name, value in defaults.items() if getattr(model, name) == value})
