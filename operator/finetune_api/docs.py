"""The API reference, generated from the models.

``python -m finetune_api.docs > docs/api.md`` writes it; ``--check FILE`` compares it.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from finetune_api.base import API_GROUP, API_VERSION, KIND, ApiModel
from finetune_api.crd import Schema, open_api_schema
from finetune_api.generated import print_or_check
from finetune_api.job import FineTuneJobStatus
from finetune_api.spec import FineTuneJobSpec

INTRODUCTION = f"""\
<!-- Generated from finetune_api by `python -m finetune_api.docs`. Do not edit. -->
# {KIND}, `{API_GROUP}/{API_VERSION}`

Namespaced; short name `ftj`. `metadata.name` has at most 63 characters: lower-case letters, digits and hyphens. The
stored object does not contain defaults. A field in **bold** is required in spec and always present in status. Each
table is followed by its cross-field rules. `kubectl explain finetunejob.spec` prints the same on a cluster.
"""

_UNBOUNDED = 2**31 - 1
"""A maximum of at least this is the range of the integer type, and not worth documenting."""


def reference() -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION, "## spec", "", *_sections(FineTuneJobSpec, "spec"), "## status", ""]
    parts += _sections(FineTuneJobStatus, "status")
    return "\n".join(parts).rstrip() + "\n"


def _sections(root: type[ApiModel], name: str) -> Iterator[str]:
    """One section for each model in ``root``, with all paths at which it is used as the title."""
    places: dict[type[ApiModel], list[str]] = {}
    _collect(root, name, places)
    for model, paths in places.items():
        if paths != [name]:
            yield f"### {_title(paths)}"
            yield ""
        yield _summary(model)
        yield ""
        yield from _table(model, places)
        yield ""
        if model.rules:
            yield from (f"- {rule.message}" for rule in model.rules)
            yield ""


def _collect(model: type[ApiModel], path: str, places: dict[type[ApiModel], list[str]]) -> None:
    places.setdefault(model, []).append(path)
    for info in model.model_fields.values():
        below = _model_in(info.annotation)
        if below:
            _collect(below, f"{path}.{info.alias}{'[]' if _is_list(info.annotation) else ''}", places)


def _table(model: type[ApiModel], places: dict[type[ApiModel], list[str]]) -> Iterator[str]:
    properties: Schema = open_api_schema(model)["properties"]
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    for info in model.model_fields.values():
        name = f"`{info.alias}`"
        schema = properties[str(info.alias)]
        below = _model_in(info.annotation)
        kind = f"[{_noun(schema)}](#{_anchor(places[below])})" if below else _type(schema)
        text, default = _split(info)
        cells = (f"**{name}**" if info.is_required() else name, kind, default, text)
        yield "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _split(info: FieldInfo) -> tuple[str, str]:
    """Description and default of a field. ``Default: …`` in the description overrides the default of the model."""
    text, _, described = (info.description or "").partition(" Default: ")
    if described:
        return text, described.rstrip(".")
    default = info.default
    if info.is_required() or default is None or isinstance(default, ApiModel) or default in ((), ""):
        return text, ""
    return text, f"`{_value(default)}`"


def _value(default: Any) -> str:
    if isinstance(default, tuple):
        return ", ".join(map(_value, default))
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _type(schema: Schema) -> str:
    """Type and bounds: ``integer 1 … 1024``."""
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}{_count(schema)}"
    if values := schema.get("enum"):
        return " · ".join(f"`{value}`" for value in values)
    if schema["type"] == "object":
        return "object"
    if schema["type"] == "string":
        return _text(schema)
    return f"{schema['type']}{_bounds(schema)}"


def _noun(schema: Schema) -> str:
    return f"list{_count(schema)}" if schema["type"] == "array" else "object"


def _count(schema: Schema) -> str:
    least, most = schema.get("minItems"), schema.get("maxItems")
    if most is None:
        return ""
    return f", {least} to {most}" if least else f", at most {most}"


def _text(schema: Schema) -> str:
    if schema.get("format") == "date-time":
        return "time"
    pattern = str(schema.get("pattern", ""))
    noun = "address" if "://" in pattern else "name" if pattern.startswith("^[a-z0-9]") else "string"
    most = schema.get("maxLength", _UNBOUNDED)
    return noun + (f", at most {most} characters" if most < 32768 else "")


def _bounds(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    most = None if most is None or most >= _UNBOUNDED else most
    parts = []
    if least is not None:
        parts.append(f"{'>' if schema.get('exclusiveMinimum') else '≥'} {least:g}")
    if most is not None:
        parts.append(f"{'<' if schema.get('exclusiveMaximum') else '≤'} {most:g}" if most < 1e6 else f"≤ {most}")
    return f", {', '.join(parts)}" if parts else ""


def _title(paths: list[str]) -> str:
    """The paths at which a model is used; with more than two, only the name of the field."""
    return ", ".join(paths) if len(paths) < 3 else paths[0].rpartition(".")[2]


def _anchor(paths: list[str]) -> str:
    """The anchor that GitHub gives a heading."""
    kept = (char for char in _title(paths).lower() if char.isalnum() or char in " -_")
    return "".join(kept).replace(" ", "-")


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def _summary(model: type[ApiModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list) or any(_is_list(argument) for argument in _parts(annotation))


def _model_in(annotation: Any) -> type[ApiModel] | None:
    """The model in an annotation such as ``tuple[Gate, ...] | None``."""
    if isinstance(annotation, type) and not get_origin(annotation):
        return annotation if issubclass(annotation, ApiModel) else None
    arguments = get_args(annotation) if get_origin(annotation) in (tuple, list) else _parts(annotation)
    return next((model for argument in arguments if (model := _model_in(argument))), None)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The type arguments of an optional, union or annotated type."""
    if get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return get_args(annotation)
    return ()


def main(arguments: list[str] | None = None) -> int:
    return print_or_check("finetune_api.docs", __doc__, reference(), arguments)


if __name__ == "__main__":
    sys.exit(main())
