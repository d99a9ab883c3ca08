"""LoRA: low-rank adapters (Hu et al. 2021), with PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, LoraSpec
from finetune_trainer.methods.adapters import AdapterMethod
from finetune_trainer.methods.base import Attachment

if TYPE_CHECKING:
    import torch

    from finetune_trainer.modelling.loading import LoadedModel

_ALL_LINEAR = ("all-linear",)


class Lora(AdapterMethod):
    """LoRA; implements `finetune_trainer.methods.base.Method`."""

    form = "A LoRA adapter"
    tags = ("lora",)

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        from peft import LoraConfig, get_peft_model

        model, lora, head = loaded.model, _settings(attachment.spec), attachment.head
        _check_targets(model, lora.target_modules)
        config = LoraConfig(
            task_type=attachment.adapter_task,
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules="all-linear" if lora.target_modules == _ALL_LINEAR else list(lora.target_modules),
            use_rslora=lora.use_rslora,
            modules_to_save=list(head) or None,
            exclude_modules=[name for name, _ in model.named_modules() if name.startswith(head)] if head else None,
        )
        return get_peft_model(model, config)

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


def _check_targets(model: torch.nn.Module, targets: tuple[str, ...]) -> None:
    import torch

    if targets == _ALL_LINEAR:
        return
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    missing = [target for target in targets if not any(n == target or n.endswith(f".{target}") for n in names)]
    if missing:
        known = sorted({name.rsplit(".", 1)[-1] for name in names})
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"method.lora.targetModules contains {', '.join(missing)}, which {type(model).__name__} does not have: use "
            f"all-linear or names from {', '.join(known)}",
        )


method = Lora()
