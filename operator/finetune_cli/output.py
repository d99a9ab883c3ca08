"""Writes to standard output and standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TextIO

from finetune_api.text import clean
from finetune_cli.printable import escaped, is_printable, printable


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    WIDE = "wide"


def program() -> str:
    """The command that the user typed: ``finetune`` or ``kubectl finetune``."""
    command = os.path.basename(sys.argv[0]).removesuffix(".exe")
    return "kubectl finetune" if command.replace("_", "-") == "kubectl-finetune" else "finetune"


def out() -> TextIO:
    """Standard output; characters that its encoding does not have are replaced."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")
    return sys.stdout


def write(text: str) -> None:
    """Print a result to standard output, without terminal escapes."""
    stream: Any = out()
    try:
        print(printable(text), file=stream, flush=True)
    except OSError:
        # The reader has closed the pipe; without this, the interpreter prints an error at exit.
        with contextlib.suppress(OSError, ValueError):
            stream.close()


def print_error(*lines: str) -> None:
    """Print errors or notes to standard error."""
    with contextlib.suppress(OSError):
        print(*map(clean, lines), sep="\n", file=sys.stderr, flush=True)  # noqa: T201


def to_json(content: Any) -> str:
    """One JSON document."""
    return escaped(json.dumps(content, indent=2, ensure_ascii=False))


def to_yaml(content: Any) -> str:
    """One YAML document, formatted as by kubectl."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _representer()
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(content, stream)
    return escaped(stream.getvalue().rstrip("\n"))


def _representer() -> type[Any]:
    """A representer that quotes texts with control characters, so that these can be escaped."""
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        def represent_str(self, text: str) -> Any:
            style = None if is_printable(text) else '"'
            return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Representer.add_representer(str, Representer.represent_str)
    return Representer


def columns(rows: Iterable[Iterable[str]]) -> list[str]:
    """``rows`` as lines with aligned columns, three spaces between them as in kubectl."""
    table = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
