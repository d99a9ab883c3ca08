"""The data of the language modelling example: source files of Python's standard library, without a download.

The small model has read docstrings, but no code. Files of one package are all in the same split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inputs.docstrings import source_files

MIN_CHARACTERS, MAX_CHARACTERS = 1500, 16_000
TEST_SHARE = 0.2
_TABLES = ("encodings",)
"""Packages that consist of generated tables."""


@dataclass(frozen=True)
class Source:
    """One source file."""

    name: str
    """Package and file, such as ``asyncio.queues``."""
    text: str
    package: str


def read_sources() -> Iterator[Source]:
    """The source files of a usual length that are UTF-8."""
    for package, path in source_files():
        text = "" if package in _TABLES else _text(path)
        if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
            name = package if path.stem.lstrip("_") == package else f"{package}.{path.stem}"
            yield Source(name, text, package)


def split(sources: Iterator[Source], train: int, test: int) -> tuple[list[Source], list[Source]]:
    """At most ``train`` and ``test`` files, in an order that depends on their names alone. No package is in both."""
    sides: dict[bool, dict[str, Source]] = {True: {}, False: {}}
    for source in sources:
        sides[is_held_out(source.package)].setdefault(source.name, source)
    ordered = {side: sorted(found.values(), key=lambda source: _digest(source.name)) for side, found in sides.items()}
    return ordered[False][:train], ordered[True][:test]


def is_held_out(package: str) -> bool:
    """Whether the files of this package belong to test."""
    return int(_digest(package)[:8], 16) < TEST_SHARE * 16**8


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
