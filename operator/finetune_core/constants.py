"""Constants that several modules share."""

from __future__ import annotations

from finetune_api.job import ConditionType
from finetune_api.stage import Stage

CONDITION_OF = {
    Stage.PREPARE: ConditionType.DATA_PREPARED,
    Stage.RESPOND: ConditionType.RESPONDED,
    Stage.TRAIN: ConditionType.TRAINED,
    Stage.EVALUATE: ConditionType.EVALUATED,
    Stage.PUBLISH: ConditionType.PUBLISHED,
}
"""The condition of each stage."""
