"""Losses of PreferenceTuning: the rows that they learn from and their metrics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.tables.metrics import Metric
from finetune_api.tables.table import table


class PreferenceLoss(StrEnum):
    DPO = "DPO"
    KTO = "KTO"
    ORPO = "ORPO"

    @property
    def row(self) -> PreferenceRow:
        return PREFERENCES[self]


@dataclass(frozen=True)
class PreferenceRow:
    """One loss."""

    summary: str
    """For the reference, such as ``pairs, against the model that training starts from``."""
    columns: tuple[str, ...]
    """The fields of dataset.columns of its rows."""
    metrics: tuple[Metric, ...]
    """All metrics, which are also the default; the first is the score."""
    has_reference: bool
    """Whether the loss compares the model with the one that training starts from."""

    @property
    def paired(self) -> bool:
        """Whether a row has two answers, of which one is better."""
        return "chosen" in self.columns


_PAIR = ("prompt", "chosen", "rejected")
_PAIR_METRICS = (Metric.PREFERRED, Metric.PREFERRED_PER_TOKEN, Metric.REWARD_ACCURACY, Metric.MARGIN)

PREFERENCES = table(
    PreferenceLoss,
    {
        PreferenceLoss.DPO: PreferenceRow(
            "pairs of answers, compared with the base model (Rafailov et al. 2023)", _PAIR, _PAIR_METRICS, True
        ),
        PreferenceLoss.KTO: PreferenceRow(
            "single answers that are desirable or not, compared with the base model (Ethayarajh et al. 2024)",
            ("prompt", "completion", "label"),
            (Metric.AUROC, Metric.MARGIN),
            True,
        ),
        PreferenceLoss.ORPO: PreferenceRow(
            "pairs of answers, without a base model; the chosen answer is learned as well (Hong et al. 2024)",
            _PAIR,
            _PAIR_METRICS,
            False,
        ),
    },
)


def losses_by_rows() -> dict[tuple[str, ...], list[PreferenceLoss]]:
    """The losses that learn from rows with the same columns and have the same metrics, by these columns."""
    found: dict[tuple[str, ...], list[PreferenceLoss]] = {}
    for loss, row in PREFERENCES.items():
        found.setdefault(row.columns, []).append(loss)
    return found
