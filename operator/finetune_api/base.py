"""What all models of the API share: camelCase names, no unknown fields, rules that CEL and pydantic both hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from finetune_api.tables.kinds import Kind

API_GROUP = "finetune.dev"
API_VERSION = "v1alpha1"
KIND = str(Kind.FINE_TUNE_JOB)


@dataclass(frozen=True)
class Rule:
    """One cross-field rule, said once: as CEL for the API server and as a predicate for pydantic.

    ``field`` is the camelCase path, below the model that carries the rule, of the field a person would change.
    ``cel`` is None where the schema itself says it.
    """

    cel: str | None
    message: str
    field: str
    holds: Callable[[Any], bool]


def _is_null_field(error: ErrorDetails) -> bool:
    """Whether ``error`` is about a known field that is null; a null in a list and an unknown field stay errors."""
    location = error["loc"]
    return bool(
        error["input"] is None and location and isinstance(location[-1], str) and error["type"] != "extra_forbidden"
    )


class ApiModel(BaseModel):
    """Base of every object that a user writes or that status shows."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """An object from JSON as the API server reads it: camelCase names only, a field that is null is left out."""
        options = {"by_name": False, **options}
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            nulls = [item["loc"] for item in error.errors() if _is_null_field(item)]
            if not nulls:
                raise
        document = json.loads(json_data)
        for location in nulls:
            *parents, name = location
            # Where a name stands twice, so does the error.
            reduce(getitem, parents, document).pop(name, None)
        return super().model_validate_json(json.dumps(document), **options)

    @model_validator(mode="after")
    def _hold_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
        return self
