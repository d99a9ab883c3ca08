"""Common part of the PEFT methods, which freeze the base model and store an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.alias_generators import to_camel

from finetune_api.base import ApiModel
from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_trainer.methods.base import Loader, MethodDefaults
from finetune_trainer.methods.coverage import Coverage, Weight, measure

if TYPE_CHECKING:
    from finetune_trainer.modelling.loading import LoadedModel

_UNMATCHED = "The following rank_pattern keys did not match any targeted module"
"""A warning of PEFT about keys for parameters, which it looks for among modules. `methods.ranks` checks them."""


class AdapterMethod(MethodDefaults):
    """A method whose result is a PEFT adapter."""

    trains_base = False

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        require(trained, ADAPTER_CONFIG)
        return restore(load(base), trained)

    def baseline_and_tuned(self, load: Loader, base: Path, trained: Path) -> Iterator[tuple[str, Any]]:
        """Yield the same model twice, with the adapter disabled for the baseline, so that it is loaded only once."""
        model = self.tuned(load, base, trained)
        with model.disable_adapter():
            yield "baseline", model
        yield "tuned", model

    def coverage(self, model: Any) -> Coverage | None:
        return measure(_weights(model))


def check_same(field: str, given: ApiModel, found: ApiModel, names: Sequence[str], because: str = "") -> None:
    """Check that the settings of a job are those of the adapter that it continues from.

    Args:
        field: The field of spec.method, as in a manifest.
        given: The settings of the job.
        found: Those of the adapter.
        names: The settings to compare; lists are compared without their order.
        because: Why the adapter has others than its job, for the message.

    Raises:
        StageFailure: BadConfiguration when they differ.
    """
    for name in names:
        wanted, present = getattr(given, name), getattr(found, name)
        same = set(wanted) == set(present) if isinstance(wanted, tuple) and isinstance(present, tuple) else False
        if wanted != present and not same:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"method.{field}.{to_camel(name)} is {_shown(wanted)}, but model.adapter has "
                f"{_shown(present)}{because}: remove method.{field} to continue with the settings of the adapter, or "
                "remove model.adapter to train another one",
            )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def require(trained: Path, name: str) -> None:
    """Check that the directory of the trained weights contains the file ``name``.

    Raises:
        StageFailure: NotFound when it does not.
    """
    if not (trained / name).is_file():
        raise StageFailure(
            Reason.NOT_FOUND, f"The trained weights lack the file {name}; delete them and run the train stage again"
        )


def attached(model: Any, config: Any, field: str) -> Any:
    """Add the adapter of ``config`` to ``model``; returns a PeftModel that saves no weights of the base model.

    Args:
        model: The base model.
        config: Its PeftConfig.
        field: The settings in the spec, for messages.

    Raises:
        StageFailure: BadConfiguration when the adapter does not fit.
    """
    from peft import get_peft_model

    from finetune_trainer.exceptions import first_line

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lora with eva initialization used with low_cpu_mem_usage=False")
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # PEFT, for rounded models.
            warnings.filterwarnings("ignore", _UNMATCHED)
            made: Any = get_peft_model(model, config)
    except ValueError as error:
        raise StageFailure(
            Reason.BAD_CONFIGURATION, f"{field} does not fit {type(model).__name__}: {first_line(error)}"
        ) from error
    if config.modules_to_save:  # To which PEFT adds its own names of heads.
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    _in_full_precision(made)
    # If the embeddings or the output layer have an adapter, PEFT also saves their frozen weights, though not with
    # ZeRO-3.
    made.save_pretrained = partial(made.save_pretrained, save_embedding_layers=False)
    return made


def _in_full_precision(model: Any) -> None:
    """Give the trained parameters FP32, in which the optimizer can add small steps.

    PEFT does so for its own ones, but not for the head, which has the precision of the base model. Of those that ZeRO-3
    has partitioned, DeepSpeed keeps a copy in FP32.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point() and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.float()


def prefix_of(model: Any) -> str:
    """What stands before the name of a module of the base model in the names of a PeftModel."""
    return "base_model." if model.active_peft_config.is_prompt_learning else "base_model.model."


def restore(loaded: LoadedModel, trained: Path) -> Any:
    """Load the adapter in ``trained`` into the base model.

    Returns:
        A PeftModel in evaluation mode.

    Raises:
        StageFailure: NotFound when the adapter cannot be read. InternalError when its tensors do not match the model,
            or when a randomly initialised parameter of the model is not in the adapter.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    from finetune_trainer.exceptions import first_line

    mismatch = "The trained adapter does not fit the base model"
    try:
        with safe_open(trained / ADAPTER_WEIGHTS, framework="pt") as file:
            stored = set(file.keys())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _UNMATCHED)
            tuned = PeftModel.from_pretrained(loaded.model, trained, is_trainable=False)
    except (OSError, SafetensorError) as error:
        raise StageFailure(Reason.NOT_FOUND, f"The trained adapter cannot be read: {first_line(error)}") from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise StageFailure(Reason.INTERNAL_ERROR, f"{mismatch}: {first_line(error)}") from error
    # PEFT only warns about missing and unexpected tensors, and would evaluate an untrained adapter.
    if different := sorted(stored ^ set(get_peft_model_state_dict(tuned, save_embedding_layers=False))):
        raise StageFailure(
            Reason.INTERNAL_ERROR,
            f"{mismatch}: {len(different)} tensors are missing or unexpected, such as {different[0]}",
        )
    # Such a layer has other random values now than in training, which makes the adapter useless.
    prefix = prefix_of(tuned)
    if absent := sorted(name for name in loaded.random if prefix + name not in stored):
        raise StageFailure(
            Reason.INTERNAL_ERROR,
            f"The adapter was trained with the randomly initialised parameter {absent[0]}, which neither the adapter "
            "nor the base model contains; store that layer in the adapter and train again",
        )
    return tuned.eval()


def _weights(model: Any) -> Iterator[Weight]:
    """The parameters of the base model of a PeftModel, each once."""
    from peft.tuners.lora.layer import ParamWrapper
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    from finetune_trainer.modelling.quantizing import size_of

    adapted: set[int] = set()
    extra: set[int] = set()
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            base = layer.get_base_layer()
            if isinstance(layer, ParamWrapper):  # The module may have further parameters.
                adapted.add(id(getattr(base, layer.parameter_name)))
            else:
                adapted |= {id(parameter) for parameter in base.parameters(recurse=False)}
            extra |= {id(parameter) for parameter in layer.parameters()} - {id(p) for p in base.parameters()}
        elif isinstance(module, ModulesToSaveWrapper):
            adapted |= {id(parameter) for parameter in module.original_module.parameters()}
            extra |= {id(parameter) for parameter in module.modules_to_save.parameters()}
    base_model = model.get_base_model()
    for name, parameter in base_model.named_parameters():
        if id(parameter) in extra or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        path = [part for part in name.split(".") if part not in ("base_layer", "original_module")]
        size = size_of(base_model.get_submodule(name.rpartition(".")[0]), parameter)
        yield Weight(".".join(path), size, id(parameter) in adapted)
