"""JSON objects in files of a stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that must exist."""
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def read_json_if_present(path: Path) -> dict[str, Any]:
    """The object in a file; empty if the file does not exist."""
    return read_json(path) if path.is_file() else {}


def write_json(path: Path, document: Any) -> None:
    """Write a document that a person may read."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
