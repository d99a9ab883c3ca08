"""Helm, as a person runs it."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.tools import go_tool

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "finetune-operator"
NAMESPACE = "finetune-system"

Object = dict[str, Any]


class Refused(Exception):
    """What helm said."""


def helm(*arguments: str) -> str:
    """What helm prints.

    Raises:
        Refused: It ended with an error.
    """
    run = subprocess.run([go_tool("helm"), *arguments], check=False, capture_output=True, text=True)
    if run.returncode:
        raise Refused(run.stderr)
    return run.stdout


@functools.cache
def rendered(*values: str) -> tuple[Object, ...]:
    """All objects of a release named finetune-operator, with values such as ``crds.install=false``."""
    text = helm("template", "finetune-operator", str(CHART), f"--namespace={NAMESPACE}", *_set(values))
    return tuple(document for document in yaml.safe_load_all(text) if document)


@functools.cache
def notes(*values: str) -> str:
    """What helm tells after the installation."""
    arguments = ("install", "finetune-operator", str(CHART), f"--namespace={NAMESPACE}", "--dry-run=client")
    return helm(*arguments, *_set(values)).rpartition("\nNOTES:\n")[2]


def of_kind(kind: str, *values: str) -> dict[str, Object]:
    """The rendered objects of one kind, by name (of those in the namespaces of jobs: by namespace/name)."""
    found = [document for document in rendered(*values) if document["kind"] == kind]
    return {_name(document["metadata"]): document for document in found}


def the(kind: str, *values: str) -> Object:
    """The only rendered object of a kind."""
    (found,) = of_kind(kind, *values).values()
    return found


def _set(values: tuple[str, ...]) -> list[str]:
    return [part for value in values for part in ("--set-json", value)]


def _name(metadata: Object) -> str:
    namespace = metadata.get("namespace", NAMESPACE)
    return str(metadata["name"]) if namespace == NAMESPACE else f"{namespace}/{metadata['name']}"
