"""How long the examples can be, and how many positions virtual tokens leave to them."""

from __future__ import annotations

from pydantic.alias_generators import to_camel

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.prepared import ModelIdentity, positions_left
from finetune_trainer.served import LONGEST

_SHORTEST = 8
"""The smallest value of training.maxSequenceLength."""


def sequence_length(spec: FineTuneJobSpec, family: ModelFamily, model: ModelIdentity) -> int:
    """Maximum number of tokens of an example: training.maxSequenceLength, or the default of the task and model.

    Virtual tokens come on top of it.

    Raises:
        StageFailure: BadConfiguration when training.maxSequenceLength exceeds the limit of the model, or virtual tokens
            leave no room for a text.
    """
    virtual = spec.method.virtual_tokens
    requested, limit = spec.training.max_sequence_length, positions_left(model, virtual)
    if limit is not None and virtual and limit < _SHORTEST:
        room = (model.max_positions or 0) - _SHORTEST
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{_virtual_field(spec)} is {virtual}, but {model.uri} supports at most {model.max_positions} positions, "
            f"which leaves no room for a text of {_SHORTEST} tokens: "
            + (f"lower it to at most {room}" if room > 0 else "choose another method or model"),
        )
    if requested is None and spec.model.endpoint:
        return LONGEST
    if requested is None:
        default = spec.task.type.row.length_for(family)
        return default if limit is None else min(default, limit)
    if limit is not None and requested > limit:
        more = f" and {_virtual_field(spec)} {virtual}, {requested + virtual} in all" if virtual else ""
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"training.maxSequenceLength is {requested}{more}, but {model.uri} supports at most {model.max_positions} "
            f"positions: lower {'maxSequenceLength' if more else 'it'} to {limit}",
        )
    return requested


def _virtual_field(spec: FineTuneJobSpec) -> str:
    settings = spec.method.type.row.settings
    assert settings is not None
    return f"method.{to_camel(settings.field)}.virtualTokens"
