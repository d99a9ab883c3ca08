"""Turns a pydantic error about a field into one sentence."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import ErrorDetails

from finetune_api.tables.harness import RANGES
from finetune_cli.fields import nearest, suggestion
from finetune_core.sentences import clipped

_LONGEST_QUOTE = 100
_NOUN_OF = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "fields",
}
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a group of fields",
    "model_attributes_type": "a group of fields",
    "dict_type": "a group of fields",
    "finite_number": "a number that is not infinite",
}
_OF_TASKS = {name for names in RANGES.values() for name in names}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def causes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """``errors`` without consequences of others: a list is too short because its entries are invalid."""
    paths = [tuple(error["loc"]) for error in errors]
    return [
        error
        for error, path in zip(errors, paths, strict=True)
        if error["type"] not in ("too_short", "too_long")
        or not any(other[: len(path)] == path and len(other) > len(path) for other in paths)
    ]


def sentence(error: ErrorDetails) -> tuple[tuple[str | int, ...], str]:
    """The path of the field to change, and the sentence."""
    path = tuple(error["loc"])
    context: dict[str, Any] = error.get("ctx") or {}
    if error["type"] == "rule":
        path = (*path, *str(context["field"]).split("."), *([context["item"]] if "item" in context else []))
        return path, f"{dotted(path)}: {context['message']}"
    name = dotted(path)
    if error["type"] == "extra_forbidden":
        meant = suggestion(path)
        return path, f"{name} is not a field" + (f"; did you mean {meant}?" if meant else "")
    if error["type"] == "missing":
        return path, f"{name} is missing"
    metric = error["input"]
    if error["type"] == "enum" and path[-1:] == ("metric",) and isinstance(metric, str) and metric in _OF_TASKS:
        advice = f"write task/{metric} with the name of a task in harness"
        return path, f"{name} is {quoted(metric)}, a metric of tasks of lm-eval: {advice}"
    return path, f"{name} {_wrong(error['type'], error['input'], context)}"


def dotted(path: tuple[str | int, ...]) -> str:
    """A path for people: ``spec.evaluation.gates[0].metric``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{clipped(part, _LONGEST_QUOTE)}" for part in path)
    return text.removeprefix(".")


def quoted(value: Any) -> str:
    """A value from a manifest, in quotes if it is text."""
    return repr(clipped(value, _LONGEST_QUOTE)) if isinstance(value, str) else clipped(repr(value), _LONGEST_QUOTE)


def _wrong(kind: str, value: Any, context: dict[str, Any]) -> str:
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {_number(context[key])}; it is {_number(value)}"
    if kind in ("enum", "literal_error"):
        return _not_one_of(value, context)
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_described(value, _WANTED[kind])}"
    if kind == "string_pattern_mismatch":
        return f"is {quoted(value)}; {_pattern(str(context.get('pattern', '')), str(value))}"
    return _wrong_length(kind, value, context) or f"is not valid: {context.get('error') or kind.replace('_', ' ')}"


def _wrong_length(kind: str, value: Any, context: dict[str, Any]) -> str | None:
    match kind:
        case "too_short":
            count = context["min_length"]
            return (
                f"must have at least {count} {'entry' if count == 1 else 'entries'}; it has {context['actual_length']}"
            )
        case "too_long":
            return f"must have at most {context['max_length']} entries; it has {context['actual_length']}"
        case "string_too_short":
            return f"is {quoted(value)}, which is too short" if value else "is empty"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters; it has {len(str(value))}"
    return None


def _not_one_of(value: Any, context: dict[str, Any]) -> str:
    known = re.findall(r"'([^']*)'", str(context["expected"]))
    meant = nearest(str(value), known) if isinstance(value, str) else None
    if (value is None and "None" in known) or isinstance(value, bool):
        return f"must be one of {', '.join(known)}; put it in quotes"
    guess = f"; did you mean {meant}?" if meant else ""
    return f"is {quoted(value)}, but must be one of {', '.join(known)}{guess}"


def _described(value: Any, wanted: str) -> str:
    if value is None:
        return "null; omit the field, or give it a value"
    if wanted == "text" and isinstance(value, bool | int | float):
        return f"{_NOUN_OF[type(value)]}; put it in quotes"
    if isinstance(value, str):
        shown = clipped(value, 40)
        return f"the text {shown!r}"
    if isinstance(value, bool | int | float):
        return _number(value)
    return _NOUN_OF.get(type(value), "this")


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e15 else str(value)


def _pattern(pattern: str, value: str) -> str:
    if "://" in pattern:
        schemes = re.search(r"\(([a-z0-9|]+)\)", pattern)
        known = [f"{scheme}://" for scheme in (schemes[1].split("|") if schemes else [])]
        if value.startswith(("/", "./", "../", "~")):
            return "write a path on this machine as file:///absolute/path or file://./relative/path"
        if any(value.startswith(scheme) for scheme in known):
            excluded = "spaces, '?' or '#'" if "?#" in pattern else "spaces or '#'"
            return f"a URI has a path after the scheme, and no {excluded}"
        return f"a URI starts with {', '.join(known)}"
    if pattern.startswith("^[a-z0-9]"):
        return "a name has only lower-case letters, digits and hyphens, and neither starts nor ends with a hyphen"
    return f"it must match {pattern}"
