"""The Kubernetes kinds of the API."""

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
    """A printer column of ``kubectl get``."""

    name: str
    path: str
    description: str
    wide: bool = False
    """Whether the column is shown only with ``-o wide``."""


@dataclass(frozen=True)
class KindRow:
    """One kind."""

    model: str
    """``module:class`` of the object, imported lazily because the module imports the tables."""
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
                Column("STATUS", ".status.phase", "Phase of the job."),
                Column("PROGRESS", ".status.progress.text", "Progress of the running stage."),
                Column("ETA", ".status.progress.eta", "Estimated time to the end of the running stage."),
                Column("BASELINE", ".status.evaluation.baselineScore", "First metric of the baseline."),
                Column("SCORE", ".status.evaluation.score", "First metric of the tuned model."),
                Column("ARTIFACT", ".status.artifact.uri", "Address of the published artifact.", wide=True),
            ),
        ),
    },
)
