"""The job of a manifest with each method, as far as the rules of the spec allow it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.methods import MethodType, Quantization, Result
from finetune_cli.sentences import causes, sentence

TRAINED = tuple(method for method in MethodType if method.row.result in (Result.ADAPTER, Result.MODEL))
"""The methods that train weights."""


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
    def name(self) -> str:
        rounded = self.quantization is not Quantization.NONE
        return f"{self.method} + {self.quantization}" if rounded else str(self.method)


def candidates(spec: FineTuneJobSpec, distributed: Mapping[str, int]) -> list[Candidate]:
    """A candidate for each method and each way to store the base model that the manifest leaves open.

    Args:
        spec: The spec of the manifest. Its other fields are those of every candidate.
        distributed: Fields of spec.distributed that the hardware decides.
    """
    fixed = spec.model.quantization
    stored = tuple(Quantization) if fixed is Quantization.NONE else (fixed,)
    return [_candidate(spec, distributed, method, one) for one in stored for method in TRAINED]


def _candidate(
    spec: FineTuneJobSpec, distributed: Mapping[str, int], method: MethodType, quantization: Quantization
) -> Candidate:
    data: dict[str, Any] = spec.model_dump(mode="json", exclude_unset=True)
    given = data.get("method", {})
    settings = method.row.settings
    own = (to_camel(settings.field) if settings else None, "preference")
    data["method"] = {"type": str(method)} | {name: given[name] for name in own if name and name in given}
    data["model"]["quantization"] = str(quantization)
    data["distributed"] = data.get("distributed", {}) | dict(distributed)
    data.pop("suspend", None)
    try:
        allowed = FineTuneJobSpec.model_validate_json(json.dumps(data))
        # Only the rules about a teacher matter here: it is not asked, and not loaded.
        return Candidate(method, quantization, allowed.model_copy(update={"distillation": None}))
    except ValidationError as error:
        found = causes(error.errors(include_url=False))
        reasons = [(one.get("ctx") or {}).get("message") or ": ".join(map(str, sentence(one))) for one in found]
        return Candidate(method, quantization, None, "; ".join(map(str, dict.fromkeys(reasons))))
