"""Settings of the fine-tuning methods, one model for each method with settings; and those of preferences."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
from finetune_api.tables.preferences import PREFERENCES, PreferenceLoss
from finetune_api.vocabulary import Label


class LoraSpec(ApiModel):
    """Low-rank adapters (Hu et al. 2021)."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the update.")
    alpha: int = Field(
        default=32, ge=1, le=4096, description="Scale of the update, which is multiplied by alpha / rank."
    )
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout on the input of the adapter.")
    target_modules: Annotated[tuple[Label, ...], Field(min_length=1, max_length=64)] = Field(
        default=("all-linear",),
        description="Names of the modules to adapt, or all-linear for every linear layer except the head, the output "
        "layer and the routers of a mixture of experts. Experts that a model stores as parameters are not adapted; the "
        "model card names the share of the weights that is.",
    )
    use_rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023).")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.targetModules) || !('all-linear' in self.targetModules) || self.targetModules.size() == 1",
            message="all-linear cannot be combined with other names in targetModules",
            field="targetModules",
            holds=lambda lora: "all-linear" not in lora.target_modules or len(lora.target_modules) == 1,
        ),
    )


def _of_kto(name: str, field: str) -> Rule:
    """The weight ``name`` is only valid for the loss KTO."""

    def holds(preference: PreferenceSpec) -> bool:
        return getattr(preference, name) == 1 or preference.loss is PreferenceLoss.KTO

    return Rule(
        cel=f"!has(self.{field}) || self.{field} == 1.0 || has(self.loss) && self.loss == 'KTO'",
        message=f"{field} is only valid for the loss KTO",
        field=field,
        holds=holds,
    )


class PreferenceSpec(ApiModel):
    """How PreferenceTuning learns, with any method."""

    loss: PreferenceLoss = Field(
        default=PreferenceLoss.DPO,
        description="; ".join(f"{loss}: {row.summary}" for loss, row in PREFERENCES.items()) + ".",
    )
    beta: float = Field(
        default=0.1,
        gt=0,
        le=100,
        description="Factor of rewards with DPO and KTO: the larger, the closer the model stays to the base model. "
        "With ORPO, the weight of the odds ratio beside the likelihood of the chosen answer.",
    )
    desirable_weight: float = Field(default=1.0, gt=0, le=1000, description="KTO: weight of desirable answers.")
    undesirable_weight: float = Field(default=1.0, gt=0, le=1000, description="KTO: weight of undesirable answers.")

    rules: ClassVar[tuple[Rule, ...]] = (
        _of_kto("desirable_weight", "desirableWeight"),
        _of_kto("undesirable_weight", "undesirableWeight"),
    )
