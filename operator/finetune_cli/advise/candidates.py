"""The job of a manifest with each method, as far as the rules of the spec allow it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from finetune_api.spec import DistillationMode, FineTuneJobSpec
from finetune_api.tables.methods import MethodType, Quantization
from finetune_cli.sentences import causes, sentence


@dataclass(frozen=True)
class Candidate:
    """A method, and how the base model is stored."""

    method: MethodType
    quantization: Quantization
    spec: FineTuneJobSpec | None
    """The spec of the job with this method; None if a rule refuses it."""
    refusal: str = ""
    """Why it is refused."""

    @property
    def trains(self) -> bool:
        """Whether the method trains weights."""
        return self.method.row.trains

    @property
    def name(self) -> str:
        rounded = self.quantization is not Quantization.NONE
        return f"{self.method} + {self.quantization}" if rounded else str(self.method)


def awaits_answers(spec: FineTuneJobSpec) -> bool:
    """Whether the answers that are learned are not known yet, because a teacher gives them when the job runs."""
    return spec.distillation is not None and spec.distillation.mode is DistillationMode.RESPONSES


def distributed_of(method: MethodType, spec: FineTuneJobSpec, hardware: Mapping[str, int]) -> dict[str, int]:
    """The fields of spec.distributed that the hardware decides, or the method, because it runs in one process.

    Args:
        method: The method.
        spec: The spec of the manifest.
        hardware: Fields that the hardware decides for a training.
    """
    if method.row.trains:
        return dict(hardware)
    return {"workers": 1, "gpusPerWorker": 1 if hardware else min(1, spec.distributed.gpus_per_worker)}


def candidates(spec: FineTuneJobSpec, distributed: Mapping[str, int]) -> list[Candidate]:
    """A candidate for each method and each way to store the base model that the manifest leaves open.

    Args:
        spec: The spec of the manifest. Its other fields are those of every candidate.
        distributed: Fields of spec.distributed that the hardware decides.
    """
    fixed = spec.model.quantization
    stored = tuple(Quantization) if fixed is Quantization.NONE else (fixed,)
    return [
        _candidate(spec, distributed, method, one)
        for one in stored
        for method in MethodType
        if method.row.trains or one is fixed or one in method.row.quantizations
    ]


def _candidate(
    spec: FineTuneJobSpec, distributed: Mapping[str, int], method: MethodType, quantization: Quantization
) -> Candidate:
    data: dict[str, Any] = spec.model_dump(mode="json", exclude_unset=True)
    given = data.get("method", {})
    settings = method.row.settings
    field = to_camel(settings.field) if settings else None
    suggested = {field: dict(settings.suggested)} if settings and settings.suggested else {}
    own = {name: given[name] for name in (field, "preference") if name and name in given}
    data["method"] = {"type": str(method)} | suggested | own
    data["model"]["quantization"] = str(quantization)
    data["distributed"] = data.get("distributed", {}) | distributed_of(method, spec, distributed)
    data.pop("suspend", None)
    try:
        return Candidate(method, quantization, FineTuneJobSpec.model_validate_json(json.dumps(data)))
    except ValidationError as error:
        found = causes(error.errors(include_url=False))
        reasons = [(one.get("ctx") or {}).get("message") or ": ".join(map(str, sentence(one))) for one in found]
        return Candidate(method, quantization, None, "; ".join(map(str, dict.fromkeys(reasons))))
