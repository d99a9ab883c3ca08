"""The CustomResourceDefinition of FineTuneJob, generated from the models.

``python -m finetune_api.crd > crds/finetunejobs.finetune.dev.yaml`` writes it; ``--check FILE`` compares it.

The schema is structural, as apiextensions.k8s.io/v1 requires: it has no references and no nulls (an optional field is
one that is not required), and its rules are CEL. It sets no defaults, so that the stored object is what the user wrote.
"""

from __future__ import annotations

import io
import itertools
import sys
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from finetune_api.base import API_GROUP, API_VERSION, Found
from finetune_api.generated import print_or_check
from finetune_api.tables.kinds import Kind

Schema = dict[str, Any]

HEADER = "# Generated from finetune_api by `python -m finetune_api.crd`. Do not edit.\n"

TEXT_WIDTH = 100

# The API server accepts 2.0 as an integer unless a CEL rule reads the field. This rule makes it reject 2.0 for every
# integer, with the path of the field. It does not affect YAML manifests, because kubectl converts 2.0 to the JSON 2.
_INTEGER = {"rule": "type(self) == int", "message": "must be a whole number, written without a decimal point"}


class _StructuralSchema(GenerateJsonSchema):
    """Generates JSON Schema in the dialect of a CustomResourceDefinition; `_finished` then resolves the references."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        # _finished moves the default into the description.
        result = super().default_schema(schema)
        return result if _is_plain(result.get("default")) else {k: v for k, v in result.items() if k != "default"}

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        format_ = "int32" if schema.get("le", 2**63) < 2**31 else "int64"
        return super().int_schema(schema) | {"format": format_, "x-kubernetes-validations": [_INTEGER]}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        result = super().float_schema(schema) | {"format": "double"}
        for bound in ("Minimum", "Maximum"):
            # In OpenAPI 3.0, an exclusive bound is a bound and a boolean flag.
            if (value := result.pop(f"exclusive{bound}", None)) is not None:
                result |= {bound.lower(): value, f"exclusive{bound}": True}
        return result

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        result = super().tuple_schema(schema)
        if prefix := result.pop("prefixItems", None):
            assert all(item == prefix[0] for item in prefix)
            result["items"] = prefix[0]
        return result

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        result = super().model_schema(schema)
        result.pop("additionalProperties", None)
        rules = [
            {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}
            | ({"messageExpression": f"{rule.message + ', not '!r} + {_shown(rule.found)}"} if rule.found else {})
            for rule in getattr(schema["cls"], "rules", ())
            if rule.cel
        ]
        return result | ({"x-kubernetes-validations": rules} if rules else {})


def _shown(found: Found) -> str:
    """A CEL expression of what a rule refuses, as its message has it."""
    return f"'\\'' + {found.cel} + '\\''" if found.is_text else _digits(found.cel)


def _digits(number: str) -> str:
    """A CEL expression of the digits of a number below 100; the API server finds ``string`` too expensive."""
    tens = "".join(f"{number} < {10 * digit + 10} ? '{digit or ''}' : " for digit in range(9))
    ones = "".join(f"{number} % 10 == {digit} ? '{digit}' : " for digit in range(9))
    return f"({tens}'9') + ({ones}'9')"


def open_api_schema(model: type[BaseModel]) -> Schema:
    """The structural OpenAPI schema of a model."""
    schema = model.model_json_schema(schema_generator=_StructuralSchema)
    definitions = schema.pop("$defs", {})
    finished: Schema = _finished(schema, definitions)
    return finished


def custom_resource_definition(kind: Kind = Kind.FINE_TUNE_JOB) -> Schema:
    """The CustomResourceDefinition of a kind."""
    row = kind.row
    schema = open_api_schema(row.load())
    properties = schema["properties"]
    properties["apiVersion"] = {"type": "string", "description": properties["apiVersion"]["description"]}
    properties["kind"] = {"type": "string", "description": properties["kind"]["description"]}
    # Kubernetes allows a schema to restrict only name and generateName in metadata.
    name = properties["metadata"]["properties"]["name"]
    properties["metadata"] = {"type": "object", "properties": {"name": name}}
    schema["required"] = ["spec"]
    columns = [
        {"name": column.name, "type": "string", "jsonPath": column.path, "description": column.description}
        | ({"priority": 1} if column.wide else {})
        for column in row.columns
    ]
    columns.append({"name": "AGE", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "names": {
                "kind": str(kind),
                "listKind": f"{kind}List",
                "plural": kind.plural,
                "singular": kind.lower(),
                "shortNames": [row.short_name],
                "categories": ["finetune"],
            },
            "scope": row.scope,
            "versions": [
                {
                    "name": API_VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def to_yaml(document: Schema) -> str:
    """The document as readable YAML; equal documents give equal bytes."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(_folded(document), stream)
    return HEADER + stream.getvalue()


def _folded(node: Any) -> Any:
    """``node`` with long strings as folded block scalars."""
    from ruamel.yaml.scalarstring import FoldedScalarString

    if isinstance(node, list):
        return [_folded(item) for item in node]
    if isinstance(node, dict):
        return {key: _folded(value) for key, value in node.items()}
    if not isinstance(node, str) or len(node) <= TEXT_WIDTH:
        return node
    text = FoldedScalarString(node)
    lines = textwrap.wrap(node, TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
    ends = itertools.accumulate((len(line) for line in lines[:-1]), lambda end, length: end + 1 + length)
    text.fold_pos = list(ends)
    return text


def _finished(node: Any, definitions: Schema) -> Any:
    """``node`` with references resolved, and without keywords that a structural schema must not contain."""
    if isinstance(node, list):
        return [_finished(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if reference := node.pop("$ref", None):
        node = definitions[reference.rpartition("/")[2]] | node
    node.pop("title", None)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    default = node.pop("default", None)
    if _is_plain(default) and "Default:" not in node.get("description", ""):
        node["description"] = f"{node['description']} Default: {_in_words(default)}."
    if "properties" in node:
        properties = {name: _finished(value, definitions) for name, value in node.pop("properties").items()}
        node["properties"] = properties
    result = {key: value if key == "properties" else _finished(value, definitions) for key, value in node.items()}
    # Readers need these keys first.
    first = {key: result.pop(key) for key in ("description", "type", "format") if key in result}
    rules = {key: result.pop(key) for key in ("x-kubernetes-validations",) if key in result}
    return first | rules | result


def _is_plain(value: Any) -> bool:
    """Whether a default is short enough for the description: a scalar, or a list of scalars."""
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_plain(item) for item in value)
    return isinstance(value, bool | int | float) or (isinstance(value, str) and value != "")


def _in_words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_in_words(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def main(arguments: list[str] | None = None) -> int:
    return print_or_check("finetune_api.crd", __doc__, to_yaml(custom_resource_definition()), arguments)


if __name__ == "__main__":
    sys.exit(main())
