"""Run Helm and parse the objects that it renders."""

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
    """Helm failed; the message is its standard error."""


def helm(*arguments: str) -> str:
    """Run helm and return its standard output.

    Raises:
        Refused: Helm exited with an error.
    """
    run = subprocess.run([go_tool("helm"), *arguments], check=False, capture_output=True, text=True)
    if run.returncode:
        raise Refused(run.stderr)
    return run.stdout


@functools.cache
def rendered(*values: str) -> tuple[Object, ...]:
    """All objects of a release named finetune-operator. Each value is like ``crds.install=false``."""
    text = helm("template", "finetune-operator", str(CHART), f"--namespace={NAMESPACE}", *_set(values))
    return tuple(document for document in yaml.safe_load_all(text) if document)


@functools.cache
def notes(*values: str) -> str:
    """The notes that helm prints after an installation."""
    arguments = ("install", "finetune-operator", str(CHART), f"--namespace={NAMESPACE}", "--dry-run=client")
    return helm(*arguments, *_set(values)).rpartition("\nNOTES:\n")[2]


def of_kind(kind: str, *values: str) -> dict[str, Object]:
    """The rendered objects of one kind, by name. Objects outside the release's namespace: by namespace/name."""
    found = [document for document in rendered(*values) if document["kind"] == kind]
    return {_name(document["metadata"]): document for document in found}


def the(kind: str, *values: str) -> Object:
    """The rendered object of a kind of which there is exactly one."""
    (found,) = of_kind(kind, *values).values()
    return found


def _set(values: tuple[str, ...]) -> list[str]:
    return [part for value in values for part in ("--set-json", value)]


def _name(metadata: Object) -> str:
    namespace = metadata.get("namespace", NAMESPACE)
    return str(metadata["name"]) if namespace == NAMESPACE else f"{namespace}/{metadata['name']}"
