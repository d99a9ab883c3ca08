"""Exports: the formats in which publish writes the tuned model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.tables.methods import Result
from finetune_api.tables.table import table


class Export(StrEnum):
    ADAPTER = "Adapter"
    MODEL = "Model"
    PROMPT = "Prompt"

    @property
    def row(self) -> ExportRow:
        return EXPORTS[self]


@dataclass(frozen=True)
class ExportRow:
    """One export."""

    source: Result
    """The method result that the export needs."""
    summary: str
    default: bool
    """Whether publish writes it by default."""


EXPORTS = table(
    Export,
    {
        Export.ADAPTER: ExportRow(
            source=Result.ADAPTER, summary="The adapter's weights; the base model is named, not copied.", default=True
        ),
        Export.MODEL: ExportRow(source=Result.MODEL, summary="All weights of the tuned model.", default=True),
        Export.PROMPT: ExportRow(
            source=Result.PROMPT,
            summary="`prompt.json`, the messages before a text; the model is named, not copied.",
            default=True,
        ),
    },
)


def exports_of(result: Result) -> tuple[Export, ...]:
    """The default exports of ``result``."""
    return tuple(export for export, row in EXPORTS.items() if row.default and row.source is result)
