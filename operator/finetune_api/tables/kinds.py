"""The kinds of the API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

from finetune_api.tables.table import table

if TYPE_CHECKING:
    from finetune_api.base import ApiModel


class Kind(StrEnum):
    FINE_TUNE_JOB = "FineTuneJob"

    @property
    def row(self) -> KindRow:
        return KINDS[self]

    @property
    def plural(self) -> str:
        return f"{self.lower()}s"


@dataclass(frozen=True)
class Column:
    """One column of ``kubectl get``."""

    name: str
    path: str
    description: str
    wide: bool = False
    """Whether it is shown with ``-o wide`` only."""


@dataclass(frozen=True)
class KindRow:
    """One kind."""

    model: str
    """``module:class`` of the object; imported late, as the model itself reads tables."""
    short_name: str
    scope: str
    """Namespaced or Cluster."""
    columns: tuple[Column, ...]

    def load(self) -> type[ApiModel]:
        module, _, name = self.model.partition(":")
        loaded: type[ApiModel] = getattr(import_module(module), name)
        return loaded


KINDS = table(
    Kind,
    {
        Kind.FINE_TUNE_JOB: KindRow(
            model="finetune_api.job:FineTuneJob",
            short_name="ftj",
            scope="Namespaced",
            columns=(
                Column("STATUS", ".status.phase", "What the job is doing."),
                Column("PROGRESS", ".status.progress.text", "How far the running stage is."),
                Column("ETA", ".status.progress.eta", "Time until the running stage ends."),
                Column("BASELINE", ".status.evaluation.baselineScore", "First metric of the baseline."),
                Column("SCORE", ".status.evaluation.score", "First metric of the tuned model."),
                Column("ARTIFACT", ".status.artifact.uri", "Where the published result lies.", wide=True),
            ),
        ),
    },
)
