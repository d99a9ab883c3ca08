"""Settings of the spec that depend on the family of the base model, which is known once its config.json is read."""

from __future__ import annotations

from pydantic.alias_generators import to_camel

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.outcome import GenerationSpec
from finetune_api.tables.methods import METHODS
from finetune_api.tables.tasks import ModelFamily

_NAMES = {
    ModelFamily.ENCODER: "an encoder",
    ModelFamily.CAUSAL: "a decoder",
    ModelFamily.SEQ2SEQ: "a model with an encoder and a decoder",
}


def check_settings(spec: FineTuneJobSpec, family: ModelFamily) -> None:
    """Check that the method is for a model of ``family``, and that each setting has an effect on it; the task as a
    whole may have it.

    Raises:
        StageFailure: BadConfiguration when it is not, or one has none.
    """
    row, method = spec.task.type.row, spec.method.type
    if why := method.row.refused_families.get(spec.task.type, {}).get(family):
        fit = (other for other, one in METHODS.items() if one.trains and family in one.families_for(spec.task.type))
        others = " or ".join(fit)
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"method {method} is not for {spec.task.type} with {_NAMES[family]}, {why}; {spec.model.uri} is one: use "
            f"{others}, or another model",
        )
    further = method.row.further_families.get(spec.task.type, ())
    for setting, families in row.settings.items():
        if getattr(spec.task, setting) is not None and family not in (*families, *further):
            raise _unused(spec, f"task.{to_camel(setting)}", families, family)
    evaluation = spec.evaluation
    # A model behind an endpoint generates its labels, too.
    if family not in row.generates and not spec.model.endpoint and evaluation.generation != GenerationSpec():
        raise _unused(spec, "evaluation.generation", row.generates, family)
    if family not in row.generates and evaluation.during_training is not None:
        raise _unused(spec, "evaluation.duringTraining", row.generates, family)


def _unused(spec: FineTuneJobSpec, field: str, families: tuple[ModelFamily, ...], family: ModelFamily) -> StageFailure:
    owners = " or ".join(_NAMES[owner] for owner in families)
    return StageFailure(
        Reason.BAD_CONFIGURATION,
        f"{field} is only valid for {owners}, and {spec.model.uri} is {_NAMES[family]}: remove it or choose another "
        "model",
    )
