"""The base class of all API models: camelCase names, no unknown fields, and validation rules for CEL and pydantic."""

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
    """One cross-field validation rule, for both the API server and pydantic."""

    cel: str | None
    """The rule as a CEL expression for the API server; None when the schema already expresses it."""
    message: str
    field: str
    """CamelCase path of the field to change, relative to the model that has the rule."""
    holds: Callable[[Any], bool]
    """The rule as a predicate for pydantic: True for a valid model."""
    found: Found | None = None
    """What the model has instead, for the end of the message."""
    item: Callable[[Any], int] | None = None
    """Where ``field`` is a list: the position of the entry to change, for pydantic."""

    def explain(self, model: Any) -> str:
        """The message for ``model``, which breaks the rule."""
        return f"{self.message}, not {self.found.of(model)}" if self.found else self.message


@dataclass(frozen=True)
class Found:
    """A number or a text that a rule refuses."""

    cel: str
    """As a CEL expression of a number below 100, or of the text. Where it is an error, the message ends without it."""
    of: Callable[[Any], object]
    """As a function of the model; a text in quotation marks."""
    is_text: bool = False


def _is_null_field(error: ErrorDetails) -> bool:
    """Whether ``error`` reports a known field that is null; a null list item or unknown field remains an error."""
    location = error["loc"]
    return bool(
        error["input"] is None and location and isinstance(location[-1], str) and error["type"] != "extra_forbidden"
    )


class ApiModel(BaseModel):
    """Base class of all objects in spec and status."""

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
        """Validate JSON as the API server does: only camelCase names are valid, and a null field counts as omitted.

        Raises:
            pydantic.ValidationError: The JSON is not a valid object.
        """
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
            # A duplicate key is reported twice, but is present once.
            reduce(getitem, parents, document).pop(name, None)
        return super().model_validate_json(json.dumps(document), **options)

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                context: dict[str, Any] = {"message": rule.explain(self), "field": rule.field}
                if rule.item:
                    context["item"] = rule.item(self)
                raise PydanticCustomError("rule", "{message}", context)
        return self
