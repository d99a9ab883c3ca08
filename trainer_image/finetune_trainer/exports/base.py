"""The protocol of an export: writes the weight files of the artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.prepared import DataReport

_HUB = "hf://"


@dataclass(frozen=True)
class ExportInputs:
    """Inputs of an export."""

    spec: FineTuneJobSpec
    data: DataReport
    trained: Path
    """Directory of the trained weights; the export may move files from it."""


class Export(Protocol):
    """An export format."""

    library: str
    """The library that loads the artifact, by its name on the Hugging Face Hub."""
    is_adapter: bool
    """Whether the artifact is an adapter of PEFT."""

    def write(self, inputs: ExportInputs, target: Path) -> None:
        """Write the weights to ``target``, the directory of the artifact, so that ``library`` can load it.

        Raises:
            StageFailure: NotFound when there are no trained weights.
        """


def published_base(uri: str) -> str:
    """The name of the base model in an artifact, as ``PeftConfig`` contains it.

    It is a Hub id for ``hf://``, and otherwise the name of the model's directory. Its path or address is valid only on
    this machine or for this team, so that the reader has to supply the model.
    """
    if uri.startswith(_HUB):
        return uri.removeprefix(_HUB)
    return PurePosixPath(unquote(urlsplit(uri).path)).name


def on_hub(spec: FineTuneJobSpec) -> bool:
    """Whether the base model is on the Hugging Face Hub."""
    return spec.model.uri.startswith(_HUB)


def move_files(trained: Path, target: Path, weights: Sequence[str], others: Sequence[str]) -> None:
    """Move files from ``trained`` to ``target`` if their names match a glob in ``weights`` or ``others``.

    Raises:
        StageFailure: NotFound when no file matches ``weights``.
    """
    names = sorted(path.name for path in trained.iterdir())
    if not any(_matches(name, weights) for name in names):
        raise StageFailure(
            Reason.NOT_FOUND,
            "The directory of the trained weights contains no weights; delete it and run the train stage again",
        )
    for name in names:
        if _matches(name, (*weights, *others)):
            (trained / name).rename(target / name)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
