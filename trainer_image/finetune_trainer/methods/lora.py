"""LoRA: low-rank adapters (Hu et al. 2021), with PEFT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.spec import FineTuneJobSpec, LoraInitialization, LoraSpec
from finetune_trainer.methods.adapters import AdapterMethod, attached
from finetune_trainer.methods.base import Attachment, BatchesOf
from finetune_trainer.methods.ranks import check_ranks
from finetune_trainer.patches.peft import task_type_of

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel


class Lora(AdapterMethod):
    """LoRA; implements `finetune_trainer.methods.base.Method`."""

    form = "A LoRA adapter"
    tags = ("lora",)

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        from peft import EvaConfig, LoraConfig

        from finetune_trainer.methods.parameters import named_parameters
        from finetune_trainer.methods.targets import ALL_LINEAR, linear_targets, named_targets, shapes_of

        model, lora = loaded.model, _settings(attachment.spec)
        if lora.target_modules == ALL_LINEAR:
            targets = linear_targets(model, attachment)
        else:
            targets = named_targets(model, attachment, lora.target_modules, "method.lora.targetModules")
        parameters = named_parameters(model, attachment, lora.target_parameters)
        start = lora.initialization
        shapes = shapes_of(model, targets) | parameters
        check_ranks(shapes, lora.rank, lora.rank_pattern, each=start is not LoraInitialization.DEFAULT)
        learned_directions = start is LoraInitialization.EVA
        config = LoraConfig(
            task_type=task_type_of(attachment.adapter_task),
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            target_parameters=list(parameters) or None,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            rank_pattern=dict(lora.rank_pattern),
            modules_to_save=list(attachment.head) or None,
            init_lora_weights="eva" if learned_directions else True,
            # The ranks stay as written, so that a training that resumes has the same ones.
            eva_config=EvaConfig(rho=1.0) if learned_directions else None,
        )
        model = attached(model, config, "method.lora")
        if start.of_weights and not attachment.trial:
            from finetune_trainer.methods.lora_start import start_from_weights

            start_from_weights(model, start)
        return model

    def needs_trial(self, spec: FineTuneJobSpec) -> bool:
        # Any model has linear layers, and nearly any layer the default rank; the other settings fit whatever these do.
        lora, default = _settings(spec), LoraSpec()
        return (
            lora.rank > default.rank
            or bool(lora.rank_pattern)
            or bool(lora.target_parameters)
            or lora.use_dora
            or (lora.target_modules, lora.initialization) != (default.target_modules, default.initialization)
        )

    def initialise(self, model: Any, spec: FineTuneJobSpec, batches_of: BatchesOf) -> None:
        lora = _settings(spec)
        if lora.initialization is LoraInitialization.EVA:
            from finetune_trainer.methods.lora_eva import start_from_inputs

            start_from_inputs(model, lora.rank, batches_of)

    def rate_factors(self, spec: FineTuneJobSpec) -> Mapping[str, float]:
        ratio = _settings(spec).lora_plus_ratio
        return {"lora_B.": ratio, "lora_embedding_B.": ratio} if ratio != 1 else {}

    def finish(self, model: Any, directory: Path, spec: FineTuneJobSpec) -> None:
        if _settings(spec).initialization.of_weights:
            from finetune_trainer.methods.lora_start import published

            published(model, directory)

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        lora = _settings(spec)
        start = lora.initialization
        parts = [
            f"rank {lora.rank}",
            f"alpha {lora.alpha}",
            f"dropout {lora.dropout:g}",
            *(["DoRA"] if lora.use_dora else []),
            *([f"learning rate of B {lora.lora_plus_ratio:g} times that of A"] if lora.lora_plus_ratio != 1 else []),
        ]
        rows = [("LoRA", ", ".join(parts)), ("Adapted modules", ", ".join(lora.target_modules))]
        if lora.target_parameters:
            names = ", ".join(lora.target_parameters)
            rows.append(("Adapted experts", f"{names}; an engine that serves the adapter must know target_parameters"))
        if lora.use_rslora:
            scaling = f"alpha / √rank = {lora.alpha / math.sqrt(lora.rank):.3g}"
            rows.append(("Scaling", f"{scaling}; an engine that serves the adapter must know use_rslora"))
        if lora.rank_pattern:
            rows.append(("Other ranks", ", ".join(f"{key} {rank}" for key, rank in sorted(lora.rank_pattern.items()))))
        if start is not LoraInitialization.DEFAULT:
            doubled = "; published with twice the rank, for the untouched base model" if start.of_weights else ""
            rows.append(("Initialisation", f"{start}{doubled}"))
        return rows


def _settings(spec: FineTuneJobSpec) -> LoraSpec:
    settings = spec.method.settings
    assert isinstance(settings, LoraSpec)
    return settings


method = Lora()
