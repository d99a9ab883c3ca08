"""Rows and files for tests of the prepare stage, with defaults for everything that a test does not set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_api.spec import DataEncoding, FineTuneJobSpec
from finetune_trainer.prepare.directories import kind_of
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import read_rows
from finetune_trainer.prepare.readers.detect import detected_form
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.tasks.instruction_tuning.messages import Conversation, Message


def a_spec(task: str = "TextClassification", **parts: Any) -> FineTuneJobSpec:
    """A valid spec; ``labels`` and ``dataset`` are merged into its fields, other parts replace them."""
    labels = parts.pop("labels", None)
    dataset = {"train": {"uri": "file:///data/train.jsonl"}, **parts.pop("dataset", {})}
    document = {
        "model": {"uri": "hf://owner/model"},
        "task": {"type": task, **({"labels": labels} if labels else {})},
        "dataset": dataset,
        "output": {"uri": "file:///out"},
        **parts,
    }
    return FineTuneJobSpec.model_validate_json(json.dumps(document))


def a_file(path: Path, content: bytes | str, encoding: DataEncoding = DataEncoding.AUTO) -> DataFile:
    """Write ``content`` to ``path``, and return it as a file of a data set."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return on_disk(path, encoding)


def on_disk(path: Path, encoding: DataEncoding = DataEncoding.AUTO) -> DataFile:
    """An existing file as a file of a data set."""
    uri = f"s3://data/{path.name}"
    kind = kind_of(path.name)
    assert kind is not None
    return DataFile(
        uri=uri,
        name=path.name,
        path=path,
        form=detected_form(uri, path, kind, encoding),
        size=path.stat().st_size,
        sha256="0" * 64,
    )


def a_conversation(messages: list[Message]) -> Conversation:
    """A conversation, every answer of which is learned."""
    return Conversation(messages, learned=tuple(message["role"] == "assistant" for message in messages))


def rows_of(file: DataFile, *needed: str) -> list[tuple[int, object]]:
    """All rows of a file, and the messages of invalid ones."""
    return [
        (number, str(found) if isinstance(found, BadRow) else dict(found)) for number, found in read_rows(file, needed)
    ]


def a_chat(*turns: tuple[str, str]) -> list[Message]:
    """Messages with the given roles and contents; by default a question and its answer."""
    chosen = turns or (("user", "2+2?"), ("assistant", "4"))
    return [{"role": role, "content": content} for role, content in chosen]
