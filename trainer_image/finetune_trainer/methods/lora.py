"""LoRA: low-rank adapters (Hu et al. 2021), with PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, LoraSpec
from finetune_trainer.methods.adapters import AdapterMethod, without_base_weights
from finetune_trainer.methods.base import Attachment
from finetune_trainer.patches.peft import task_type_of

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel


class Lora(AdapterMethod):
    """LoRA; implements `finetune_trainer.methods.base.Method`."""

    form = "A LoRA adapter"
    tags = ("lora",)

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        from peft import LoraConfig, get_peft_model

        from finetune_trainer.exceptions import first_line
        from finetune_trainer.methods.targets import ALL_LINEAR, linear_targets, named_targets

        model, lora = loaded.model, _settings(attachment.spec)
        if lora.target_modules == ALL_LINEAR:
            targets = linear_targets(model, attachment)
        else:
            targets = named_targets(model, attachment, lora.target_modules)
        config = LoraConfig(
            task_type=task_type_of(attachment.adapter_task),
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            use_rslora=lora.use_rslora,
            modules_to_save=list(attachment.head) or None,
        )
        try:
            return without_base_weights(get_peft_model(model, config))
        except ValueError as error:
            raise StageFailure(
                Reason.BAD_CONFIGURATION, f"method.lora does not fit {type(model).__name__}: {first_line(error)}"
            ) from error

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        lora = _settings(spec)
        scaling = ", rank-stabilised" if lora.use_rslora else ""
        return (
            ("LoRA", f"rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g}{scaling}"),
            ("Adapted modules", ", ".join(lora.target_modules)),
        )


def _settings(spec: FineTuneJobSpec) -> LoraSpec:
    settings = spec.method.settings
    assert isinstance(settings, LoraSpec)
    return settings


method = Lora()
