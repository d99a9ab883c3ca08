"""Rows and files for tests of the prepare stage, with defaults for everything that a test does not set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.prepare.sources import KIND_OF_SUFFIX, DataFile
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


def a_file(path: Path, content: bytes | str) -> DataFile:
    """Write ``content`` to ``path``, and return it as a file of a data set."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return on_disk(path)


def on_disk(path: Path) -> DataFile:
    """An existing file as a file of a data set."""
    return DataFile(
        uri=f"s3://data/{path.name}",
        name=path.name,
        path=path,
        kind=KIND_OF_SUFFIX[path.suffix],
        size=path.stat().st_size,
        sha256="0" * 64,
    )


def a_conversation(messages: list[Message]) -> Conversation:
    """A conversation, every answer of which is learned."""
    return Conversation(messages, learned=tuple(message["role"] == "assistant" for message in messages))


def a_chat(*turns: tuple[str, str]) -> list[Message]:
    """Messages with the given roles and contents; by default a question and its answer."""
    chosen = turns or (("user", "2+2?"), ("assistant", "4"))
    return [{"role": role, "content": content} for role, content in chosen]
