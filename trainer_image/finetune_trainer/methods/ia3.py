"""IA3: learned factors of the inputs and outputs of some layers (Liu et al. 2022), with PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Ia3Spec, MethodSpec
from finetune_trainer.methods.adapters import AdapterMethod, attached, check_same
from finetune_trainer.methods.base import Attachment
from finetune_trainer.patches.peft import task_type_of

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel


class Ia3(AdapterMethod):
    """IA3; implements `finetune_trainer.methods.base.Method`."""

    form = "An IA3 adapter"
    tags = ("ia3",)
    undecayed = ("ia3_l",)  # Factors, which are 1 in the base model.

    def needs_trial(self, spec: FineTuneJobSpec) -> bool:
        # Not every model has default layers.
        return True

    def continued(self, spec: FineTuneJobSpec, origin: FineTuneJobSpec, adapter: Path) -> MethodSpec:
        found, given = _settings(origin), getattr(spec.method, "ia3", None)
        if given is not None:
            check_same("ia3", given, found, tuple(Ia3Spec.model_fields))
        return spec.method.model_copy(update={"ia3": given or found})

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        if attachment.adapter is not None:
            from finetune_trainer.methods.continuing import from_adapter

            return from_adapter(loaded, attachment, {})
        from peft import IA3Config

        from finetune_trainer.methods.targets import named_targets

        model = loaded.model
        scaled, feedforward = _layers(model, attachment)
        config = IA3Config(
            task_type=task_type_of(attachment.adapter_task),
            target_modules=named_targets(model, attachment, scaled, "method.ia3.targetModules"),
            feedforward_modules=named_targets(model, attachment, feedforward, "method.ia3.feedforwardModules"),
            modules_to_save=list(attachment.head) or None,
        )
        return attached(model, config, "method.ia3")

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        settings = _settings(spec)
        if settings.target_modules is None:
            return (("IA3", "the default layers of the model type: keys, values and feed-forward layers"),)
        feedforward = ", ".join(settings.feedforward_modules or ())
        return (
            ("Scaled modules", ", ".join(settings.target_modules)),
            *([("Of these, scaled at their input", feedforward)] if feedforward else []),
        )


def _layers(model: Any, attachment: Attachment) -> tuple[Sequence[str], Sequence[str]]:
    """The layers to scale, and those of them that are scaled at their input: those of the spec, or PEFT's defaults.

    Raises:
        StageFailure: BadConfiguration when the spec has none, and PEFT no defaults for the model.
    """
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    )

    from finetune_trainer.methods.targets import adaptable_names

    settings = _settings(attachment.spec)
    if settings.target_modules is not None:
        return settings.target_modules, settings.feedforward_modules or ()
    kind = model.config.model_type
    if kind not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"IA3 has no default layers for models of type {kind}: set method.ia3.targetModules and "
            "feedforwardModules, usually to the layers of keys and values, and the second layer of the feed-forward "
            f"block; "
            f"{type(model).__name__} has {', '.join(adaptable_names(model, attachment))}",
        )
    return (
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind],
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind],
    )


def _settings(spec: FineTuneJobSpec) -> Ia3Spec:
    settings = spec.method.settings
    assert isinstance(settings, Ia3Spec)
    return settings


method = Ia3()
