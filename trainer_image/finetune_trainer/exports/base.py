"""What an export is made of: the files of the artifact that hold weights, and how they are described."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.prepared import DataReport
from finetune_trainer.storage.location import parse


@dataclass(frozen=True)
class ExportInputs:
    """What an export is made of."""

    spec: FineTuneJobSpec
    data: DataReport
    trained: Path
    """Directory of the trained weights; the export may move files out of it."""


class Export(Protocol):
    """One export."""

    library: str
    """The library that loads it, by its name on the Hugging Face Hub."""
    is_adapter: bool
    """Whether the base model must be loaded besides."""

    def write(self, inputs: ExportInputs, target: Path) -> None:
        """Fill ``target``, the directory of the artifact, so that ``library`` loads it as it is.

        Raises:
            StageFailure: NotFound, when there are no trained weights.
        """


def published_base(uri: str) -> str:
    """How an artifact names its base model: a hub name for ``hf://``, a path for ``file://``, else the address itself.

    This is what ``PeftConfig`` and a person need to find the model again.
    """
    if uri.startswith("file://"):
        return str(parse(uri).path)
    return uri.removeprefix("hf://")


def on_hub(spec: FineTuneJobSpec) -> bool:
    """Whether the base model is on the Hugging Face Hub."""
    return spec.model.uri.startswith("hf://")


def move_files(trained: Path, target: Path, weights: Sequence[str], others: Sequence[str]) -> None:
    """Move files whose names match ``weights`` or ``others``, and nothing that only the training needed.

    Raises:
        StageFailure: NotFound, when none matches ``weights``.
    """
    names = sorted(path.name for path in trained.iterdir())
    if not any(_matches(name, weights) for name in names):
        raise StageFailure(
            Reason.NOT_FOUND, "The trained directory holds no weights; delete it and run the train stage again"
        )
    for name in names:
        if _matches(name, (*weights, *others)):
            (trained / name).rename(target / name)


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
