"""Looks up API fields by name, to suggest corrections."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from finetune_api.base import ApiModel
from finetune_api.job import FineTuneJob, FineTuneJobStatus


def model_at(path: tuple[str | int, ...]) -> type[ApiModel] | None:
    """The model at ``path`` of a FineTuneJob; None if there is none."""
    model: type[ApiModel] | None = FineTuneJob
    for part in path:
        if isinstance(part, int):
            continue
        info = next((f for f in (model.model_fields.values() if model else ()) if f.alias == part), None)
        model = _model_in(info.annotation) if info else None
    return model


def suggestion(path: tuple[str | int, ...]) -> str | None:
    """The field probably meant by the unknown one at ``path``: a name, or a full path."""
    parent, written = path[:-1], str(path[-1])
    model = model_at(parent)
    known = [str(info.alias) for info in model.model_fields.values()] if model else []
    for name in known:
        if _same(name) == _same(written):
            return name
    elsewhere = [where for where in _all_fields(FineTuneJob, ()) if _same(where[-1]) == _same(written)]
    if elsewhere:
        return ".".join(elsewhere[0])
    near = difflib.get_close_matches(written, known, n=1, cutoff=0.6)
    if near:
        return near[0]
    by_name = {where[-1]: where for where in reversed(list(_all_fields(FineTuneJob, ())))}
    near = difflib.get_close_matches(written, by_name, n=1, cutoff=0.8)
    return ".".join(by_name[near[0]]) if near else None


def nearest(written: str, known: list[str]) -> str | None:
    """The word of ``known`` that is similar to ``written``, if there is one."""
    for word in known:
        if _same(word) == _same(written):
            return word
    cutoff = 0.6 if len(written) > 4 else 0.7  # Two short words soon have most letters in common.
    near = difflib.get_close_matches(written.lower(), [word.lower() for word in known], n=1, cutoff=cutoff)
    return next((word for word in known if near and word.lower() == near[0]), None)


def _same(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _all_fields(model: type[ApiModel], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for info in model.model_fields.values():
        where = (*path, str(info.alias))
        below = _model_in(info.annotation)
        if below is FineTuneJobStatus:
            continue
        yield where
        if below is not None:
            yield from _all_fields(below, where)


def _model_in(annotation: Any) -> type[ApiModel] | None:
    """The model in an annotation such as ``tuple[Gate, ...] | None``."""
    if isinstance(annotation, type) and not get_origin(annotation):
        return annotation if issubclass(annotation, ApiModel) else None
    if get_origin(annotation) in (typing.Union, types.UnionType, tuple, list, typing.Annotated):
        return next((model for argument in get_args(annotation) if (model := _model_in(argument))), None)
    return None
