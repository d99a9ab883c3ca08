"""``finetune predict``: applies a published artifact to texts, in a process of the trainer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_api.failures import ExitCode
from finetune_api.job import ArtifactStatus
from finetune_cli.local import LocalError
from finetune_cli.local.trainer import ask
from finetune_cli.output import Output, print_error, to_json, write


def predict(artifact: ArtifactStatus, rows: Sequence[Any], base_model: str | None, output: Output) -> int:
    """Print the predictions of an artifact for rows; returns the exit code. An empty digest is not checked.

    Raises:
        LocalError: The trainer is not installed, or it cannot use the artifact or a row.
    """
    if sys.stderr.isatty():
        print_error(f"loading {artifact.uri}")
    request = {
        "artifact": artifact.uri,
        "digest": artifact.digest or None,
        "base_model": base_model and as_address(base_model),
        "rows": list(rows),
    }
    answer = ask("predict", request)
    for note in answer["notes"]:
        print_error(f"note: {note}")
    found = answer["predictions"]
    if output is Output.JSON:
        documents = [one["document"] for one in found]
        write(to_json({"artifact": artifact.uri, "predictions": documents}))
    else:
        write("\n".join(lines([str(one["text"]) for one in found])))
    return ExitCode.DONE


def lines(texts: Sequence[str]) -> list[str]:
    """A line for each prediction; if one has several lines, a heading with its number before each."""
    if len(texts) == 1 or not any("\n" in text for text in texts):
        return list(texts)
    return [line for number, text in enumerate(texts, 1) for line in (f"==> {number} <==", text)]


def rows_of(texts: Sequence[str], file: str | None, jsonl: bool) -> list[Any]:
    """The rows from the arguments, a file, or standard input.

    Raises:
        LocalError: The file cannot be read, or a line is not a row.
    """
    suffix = Path(file).suffix.lower() if file else ""
    if suffix in (".csv", ".tsv", ".parquet", ".arrow", ".json"):
        raise LocalError(
            f"predict reads lines of text, or JSON objects as lines of a .jsonl file; convert {file} to one of them.",
            ExitCode.BAD_DATA,
        )
    jsonl = jsonl or suffix == ".jsonl"
    if texts:
        source, found = "argument", list(texts)
    else:
        source, found = file or "stdin", _lines(file)
    if not found:
        raise LocalError(f"{source} contains no text.", ExitCode.BAD_DATA)
    # An empty line is an empty text, but no JSON object.
    numbered = [(number, line) for number, line in enumerate(found, 1) if line.strip() or not jsonl]
    return [_row(line, f"{source}:{number}", jsonl) for number, line in numbered]


def as_address(model: str) -> str:
    """The address of a model: paths become ``file://``."""
    return model if "://" in model else Path(model).absolute().as_uri()


def _lines(file: str | None) -> list[str]:
    try:
        content = sys.stdin.buffer.read() if file in (None, "-") else Path(str(file)).read_bytes()
        return content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise LocalError(
            f"Cannot read {file}: {(error.strerror or str(error)).lower()}.", ExitCode.NOT_FOUND
        ) from error
    except UnicodeDecodeError as error:
        raise LocalError(f"{file or 'stdin'} is not UTF-8 text.", ExitCode.BAD_DATA) from error


def _row(line: str, where: str, jsonl: bool) -> Any:
    if not line.strip():
        raise LocalError(f"{where} is empty; give a text.", ExitCode.BAD_DATA)
    if not jsonl:
        return line
    try:
        row = json.loads(line)
    except ValueError as error:
        hint = f" Read a file with --file {line}." if Path(line).is_file() else ""
        raise LocalError(f"{where} is not JSON: {error}.{hint}", ExitCode.BAD_DATA) from error
    if not isinstance(row, dict):
        raise LocalError(f"{where} is not a JSON object; --jsonl takes one object in each line.", ExitCode.BAD_DATA)
    return row
