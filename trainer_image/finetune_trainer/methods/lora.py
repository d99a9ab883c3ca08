"""LoRA: low-rank adapters (Hu et al. 2021), with PEFT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import ADAPTER_CONFIG
from finetune_api.spec import FineTuneJobSpec, LoraInitialization, LoraSpec, MethodSpec
from finetune_trainer.exceptions import first_line
from finetune_trainer.json_files import read_json
from finetune_trainer.methods.adapters import AdapterMethod, attached, check_same
from finetune_trainer.methods.base import Attachment, BatchesOf
from finetune_trainer.methods.ranks import check_ranks
from finetune_trainer.patches.peft import task_type_of

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel

_OF_THE_ADAPTER = ("rank", "alpha", "target_modules", "target_parameters", "use_rslora", "use_dora", "rank_pattern")
"""Settings that decide what the adapter is, and not how it is trained."""


class Lora(AdapterMethod):
    """LoRA; implements `finetune_trainer.methods.base.Method`."""

    form = "A LoRA adapter"
    tags = ("lora",)
    undecayed = ("lora_magnitude_vector",)  # Of DoRA: norms of the base weights.

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        if attachment.adapter is not None:
            from finetune_trainer.methods.continuing import from_adapter

            # It starts from weights, so that nothing is to be initialised.
            changed = {
                "lora_dropout": _settings(attachment.spec).dropout,
                "init_lora_weights": True,
                "eva_config": None,
            }
            return from_adapter(loaded, attachment, changed)
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

    def continued(self, spec: FineTuneJobSpec, origin: FineTuneJobSpec, adapter: Path) -> MethodSpec:
        """See `finetune_trainer.methods.base.Method.continued`. Dropout and learning rates are free: they belong to the
        training. Where the adapter is also the reference, it has no dropout: the model would differ from its reference
        before the first step.
        """
        found = _of_adapter(adapter, _settings(origin))
        given: LoraSpec | None = getattr(spec.method, "lora", None)
        if given is not None:
            start = _settings(origin).initialization
            doubled = f", because {start} publishes twice the rank" if start.of_weights else ""
            check_same("lora", given, found, _OF_THE_ADAPTER, doubled)
        chosen = given or found
        if _has_reference(spec):
            chosen = chosen.model_copy(update={"dropout": 0.0})
        return spec.method.model_copy(update={"lora": chosen})

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
            f"dropout {lora.dropout:g}{', as the reference has none' if _is_reference(spec) else ''}",
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


def _has_reference(spec: FineTuneJobSpec) -> bool:
    """Whether the training compares the model with the one that it started from."""
    return spec.preference is not None and spec.preference.loss.row.has_reference


def _is_reference(spec: FineTuneJobSpec) -> bool:
    """Whether that is an adapter."""
    return spec.model.adapter is not None and _has_reference(spec)


def _of_adapter(directory: Path, origin: LoraSpec) -> LoraSpec:
    """The settings of a published adapter; ``origin`` are those that it was trained with.

    Raises:
        StageFailure: BadConfiguration when method.lora cannot express them.
    """
    config = read_json(directory / ADAPTER_CONFIG)
    try:
        alpha = float(config["lora_alpha"])
        if not alpha.is_integer():
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"model.adapter was trained with useRslora and the initialization {origin.initialization}, which "
                f"publishes twice the rank with the alpha {alpha:.4g}; method.lora.alpha is a whole number, so that "
                "training cannot continue: train from the base model",
            )
        return LoraSpec(
            rank=config["r"],
            alpha=int(alpha),
            dropout=config["lora_dropout"],
            target_modules=origin.target_modules,
            target_parameters=origin.target_parameters,
            use_rslora=bool(config.get("use_rslora")),
            use_dora=bool(config.get("use_dora")),
            rank_pattern=config.get("rank_pattern") or {},
            lora_plus_ratio=origin.lora_plus_ratio,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{ADAPTER_CONFIG} of model.adapter has settings that method.lora cannot have: {first_line(error)}",
        ) from None


def _settings(spec: FineTuneJobSpec) -> LoraSpec:
    settings = spec.method.settings
    assert isinstance(settings, LoraSpec)
    return settings


method = Lora()
