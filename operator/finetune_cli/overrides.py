"""``--set training.epochs=1``: fields of a manifest that the command line replaces."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_cli.manifest import ManifestError, Problem
from finetune_cli.sentences import dotted
from finetune_cli.source import Document, Path_, SourceError, read_documents

_PATH = re.compile(r"[A-Za-z_][\w-]*(\[\d+\])*(\.[A-Za-z_][\w-]*(\[\d+\])*)*")
_PART = re.compile(r"[\w-]+")
_TOP = ("spec", "metadata", "apiVersion", "kind", "status")


@dataclass(frozen=True)
class Override:
    """One ``--set``."""

    text: str
    path: Path_
    value: Any

    def problem(self, message: str) -> ManifestError:
        return ManifestError([Problem(f"--set {self.text}", 0, message)])


def overrides_of(texts: Sequence[str]) -> tuple[Override, ...]:
    """The values of the option ``--set``.

    Raises:
        ManifestError: One is not ``field=value``.
    """
    return tuple(map(_override, texts))


def overridden(document: Document, overrides: Sequence[Override]) -> Document:
    """``document`` with fields replaced or added, in order.

    Raises:
        ManifestError: The parent of a field is no group of fields, or an item does not exist.
    """
    if not overrides or not isinstance(document.data, dict):
        return document
    changed = replace(
        document, data=copy.deepcopy(document.data), origins=dict(document.origins), text_data=document.data
    )
    for one in overrides:
        changed.origins[_put(changed.data, one)] = f"--set {one.text}"
    return changed


def _override(text: str) -> Override:
    name, equals, value = text.partition("=")
    if not equals or not _PATH.fullmatch(name):
        raise ManifestError(
            [Problem(f"--set {text}", 0, "is not FIELD=VALUE, such as training.epochs=1 or model.revision=main")]
        )
    parts: Path_ = tuple(int(part) if part.isdigit() else part for part in _PART.findall(name))
    path = parts if parts[0] in _TOP else ("spec", *parts)
    try:
        (document,) = read_documents(f"value: {value}\n")
        data = document.data["value"]
    except (SourceError, ValueError, KeyError, TypeError):
        raise ManifestError([Problem(f"--set {text}", 0, "has a value that is not YAML; put it in quotes")]) from None
    return Override(text, path, data)


def _put(data: dict[str, Any], one: Override) -> Path_:
    """Set the value; returns the path of the field, or of the first group that was added for it."""
    node: Any = data
    added = one.path
    for depth, part in enumerate(one.path):
        where = dotted(one.path[:depth])
        if isinstance(part, int):
            if not isinstance(node, list) or part >= len(node):
                raise one.problem(f"{where}[{part}] does not exist; set the whole list, such as {where}=[…]")
        elif not isinstance(node, dict):
            raise one.problem(f"{where} is not a group of fields, so it has no field {part}")
        if depth == len(one.path) - 1:
            node[part] = one.value
        else:
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}
                added = min(added, one.path[: depth + 1], key=len)
            node = node[part]
    return added
