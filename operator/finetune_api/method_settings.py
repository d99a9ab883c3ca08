"""Settings of the fine-tuning methods, one model for each method with settings."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, Rule
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
