"""What an artifact's directory holds, put together so that plain ``peft`` and ``transformers`` load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import TaskType
from finetune_trainer.prepared import DataReport
from finetune_trainer.storage.location import parse

ADAPTER_CONFIG = "adapter_config.json"
LABELS_NAME = "labels.json"
_WEIGHTS = ("adapter_model.safetensors", "model*.safetensors", "model.safetensors.index.json")
_CONFIGURATION = (ADAPTER_CONFIG, "config.json", "generation_config.json")


def published_base(uri: str) -> str:
    """How an adapter names its base model: a hub name for ``hf://``, a path for ``file://``, else the address itself.

    This is what ``PeftConfig`` and a person need to find the model again.
    """
    if uri.startswith("file://"):
        return str(parse(uri).path)
    return uri.removeprefix("hf://")


def is_adapter(directory: Path) -> bool:
    return (directory / ADAPTER_CONFIG).is_file()


def move_weights(trained: Path, target: Path) -> None:
    """Move weights and configuration from ``trained`` to ``target``, and nothing that only the training needed.

    Raises:
        StageFailure: NotFound, when there are no weights.
    """
    names = sorted(path.name for path in trained.iterdir())
    if not any(_matches(name, _WEIGHTS) for name in names):
        raise StageFailure(
            Reason.NOT_FOUND, "The trained directory holds no weights; delete it and run the train stage again"
        )
    for name in names:
        if _matches(name, _WEIGHTS + _CONFIGURATION):
            (trained / name).rename(target / name)


def finish_configuration(target: Path, data: DataReport, base_uri: str) -> None:
    """Name the base model in the adapter's configuration, and the labels in the model's.

    Args:
        target: Directory of the artifact.
        data: The data report, with labels and the model's revision.
        base_uri: ``model.uri`` of the spec.
    """
    if is_adapter(target):
        settings = _read(target / ADAPTER_CONFIG)
        settings["base_model_name_or_path"] = published_base(base_uri)
        settings["revision"] = data.model.revision if base_uri.startswith("hf://") else None
        _write(target / ADAPTER_CONFIG, settings)
    if data.task == TaskType.TEXT_CLASSIFICATION:
        write_labels(target, data.labels)


def write_labels(target: Path, labels: Sequence[str]) -> None:
    """Write ``labels.json``, the labels by index, and put them into ``config.json`` where there is one."""
    _write(target / LABELS_NAME, list(labels))
    config_path = target / "config.json"
    if config_path.is_file():
        config = _read(config_path)
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
        config["label2id"] = {label: index for index, label in enumerate(labels)}
        _write(config_path, config)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
