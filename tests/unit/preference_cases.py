"""Specs of PreferenceTuning for `tests.unit.api_cases`: a name, changes, and a part of the message of the rule."""

from __future__ import annotations

from typing import Any

WEIGHT_OF_KTO = "undesirableWeight is only valid for the loss KTO"
DESIRABLE_OF_KTO = "desirableWeight is only valid for the loss KTO"
COLUMNS_OF_DPO = "dataset.columns of PreferenceTuning with DPO or ORPO are prompt, chosen and rejected"
COLUMNS_OF_ONE_LOSS = "set columns.chosen and columns.rejected, or columns.completion and columns.label, not both"
METRICS_OF_DPO = "evaluation.metrics of PreferenceTuning with DPO or ORPO are preferred, preferred_per_token, "
BATCH_OF_KTO = "training.batchSize with KTO is at least 2"

PREFERENCE_CASES: tuple[tuple[Any, ...], ...] = (
    ("preferences", {}),
    ("preference settings", {"method.preference": {"loss": "ORPO", "beta": 0.2}}),
    ("preferences with Full", {"method": {"type": "Full", "preference": {"loss": "DPO"}}}),
    ("weights of KTO", {"method.preference": {"loss": "KTO", "undesirableWeight": 2.0}}),
    ("weights of DPO", {"method.preference": {"undesirableWeight": 2.0}}, WEIGHT_OF_KTO),
    ("weights of ORPO", {"method.preference": {"loss": "ORPO", "desirableWeight": 2.0}}, DESIRABLE_OF_KTO),
    ("default weight of DPO", {"method.preference": {"undesirableWeight": 1.0}}),
    ("columns of DPO", {"dataset.columns": {"prompt": "p", "chosen": "c", "rejected": "r"}}),
    ("columns of KTO with DPO", {"dataset.columns": {"completion": "c"}}, COLUMNS_OF_DPO),
    (
        "columns of KTO",
        {"method.preference.loss": "KTO", "dataset.columns": {"prompt": "p", "completion": "c", "label": "l"}},
    ),
    (
        "columns of DPO with KTO",
        {"method.preference.loss": "KTO", "dataset.columns.chosen": "c"},
        "dataset.columns of PreferenceTuning with KTO are prompt, completion and label",
    ),
    (
        "text of preferences",
        {"dataset.columns.text": "t"},
        "dataset.columns of PreferenceTuning are prompt and chosen and rejected, or prompt and completion and label",
    ),
    ("columns of both", {"dataset.columns": {"chosen": "c", "label": "l"}}, COLUMNS_OF_ONE_LOSS),
    ("metrics of DPO", {"evaluation.metrics": ["preferred", "margin"]}),
    ("metrics of KTO with DPO", {"evaluation.metrics": ["auroc"]}, METRICS_OF_DPO),
    (
        "gate of KTO with ORPO",
        {"method.preference.loss": "ORPO", "evaluation.gates": [{"metric": "auroc", "minimum": 0.5}]},
        "gates of PreferenceTuning with DPO or ORPO can be on",
    ),
    (
        "metrics of DPO with KTO",
        {"method.preference.loss": "KTO", "evaluation.metrics": ["preferred"]},
        "evaluation.metrics of PreferenceTuning with KTO are auroc, margin",
    ),
    ("metrics of KTO", {"method.preference.loss": "KTO", "evaluation.metrics": ["auroc", "margin"]}),
    (
        "gate of DPO with KTO",
        {"method.preference.loss": "KTO", "evaluation.gates": [{"metric": "preferred", "minimum": 0.5}]},
        "gates of PreferenceTuning with KTO can be on auroc, margin",
    ),
    ("single rows of KTO", {"method.preference.loss": "KTO", "training.batchSize": 1}, BATCH_OF_KTO),
    ("single pairs", {"training.batchSize": 1}),
    ("packed pairs", {"training.packing": True}, "training.packing is only valid for"),
    ("generation of preferences", {"evaluation.generation": {"maxNewTokens": 9}}, "generates nothing"),
)
