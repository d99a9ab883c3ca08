"""Which modules of a model get an adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers.pytorch_utils import Conv1D

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import MethodType
from finetune_trainer.methods.base import Attachment
from finetune_trainer.modelling.modalities import other_modalities

ALL_LINEAR = ("all-linear",)

_LINEAR = (torch.nn.Linear, Conv1D)
_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_SUPPORTED = (*_LINEAR, *_CONVOLUTIONS, torch.nn.Embedding, torch.nn.MultiheadAttention)
_ROUTERS = {"gate", "router"}
"""Names of the linear layers, or of the modules around them, that choose the experts of a token."""
_EXPERT_COUNTS = ("moe_num_experts", "n_routed_experts", "num_experts", "num_local_experts")
"""Fields of config.json with the number of experts, which is the number of outputs of a router."""
_UNADAPTABLE = {
    "deepseek_v4": {"o_a_proj"},
    "falcon_h1": {"out_proj"},
    "falcon_mamba": {"out_proj"},
    "mamba": {"out_proj"},
    "mamba2": {"out_proj"},
    "nemotron_h": {"out_proj"},
}
"""Linear layers by model type that compute something else than LoRA assumes: a product for each group of inputs, or, as
PEFT refuses them, whatever a fused kernel does with their weights.
"""


def linear_targets(model: Any, attachment: Attachment) -> list[str]:
    """Names of the modules that all-linear adapts, in order.

    These are the linear layers that training reaches, except the head, the output layer and the routers of a mixture of
    experts. Experts that are parameters, as in most models of transformers 5, are no linear layers.
    """
    output = model.get_output_embeddings()
    names = [
        name
        for name, module in trained_modules(model, attachment)
        if isinstance(module, _LINEAR) and module is not output and not _is_router(model, name, module)
    ]
    left_out = _names_of_experts(model, names) | _UNADAPTABLE.get(model.config.model_type, set())
    return [name for name in names if _leaf(name) not in left_out]


def named_targets(model: Any, attachment: Attachment, targets: Sequence[str], field: str) -> list[str]:
    """Names of the modules that ``targets``, names or ends of names, select, in order; ``field`` is for messages.

    Raises:
        StageFailure: BadConfiguration when a target selects no module, or one that PEFT cannot adapt.
    """
    modules = dict(trained_modules(model, attachment))
    chosen = {target: [name for name in modules if name == target or name.endswith(f".{target}")] for target in targets}
    supported = {name for name, module in modules.items() if isinstance(module, _SUPPORTED)}
    wrong = [target for target, names in chosen.items() if not names or not supported.issuperset(names)]
    if not wrong and (experts := _names_of_experts(model, [name for names in chosen.values() for name in names])):
        wrong = [target for target in targets if _leaf(target) in experts]
    if wrong:
        everything = "all-linear or " if attachment.spec.method.type is MethodType.LORA else ""
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"{field} contains {', '.join(wrong)}, which {type(model).__name__} does not have as a layer that can be "
            f"adapted: use {everything}names from {', '.join(adaptable_names(model, attachment))}",
        )
    selected = {name for names in chosen.values() for name in names}
    return [name for name in modules if name in selected]


def adaptable_names(model: Any, attachment: Attachment) -> list[str]:
    """Last parts of the names of the modules that can be adapted, in order."""
    names = [name for name, module in trained_modules(model, attachment) if isinstance(module, _SUPPORTED)]
    return sorted({_leaf(name) for name in names} - _names_of_experts(model, names))


def trained_modules(model: Any, attachment: Attachment) -> Iterator[tuple[str, torch.nn.Module]]:
    """Named modules that training reaches, without the head."""
    left_out = tuple(f"{name}." for name in (*attachment.head, *other_modalities(model)))
    endings = tuple(f".{name}" for name in attachment.untrained)
    for name, module in model.named_modules():
        if name and not f"{name}.".startswith(left_out) and not f".{name}".endswith(endings):
            yield name, module


def shapes_of(model: Any, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the modules ``names`` whose weights are matrices."""
    found = {}
    for name in names:
        module: Any = model.get_submodule(name)
        if isinstance(module, torch.nn.Linear):  # A rounded weight has another shape.
            found[name] = (module.out_features, module.in_features)
            continue
        weight = getattr(module, "weight", None)
        shape = tuple(getattr(weight, "ds_shape", getattr(weight, "shape", ())))
        if len(shape) == 2:
            found[name] = (shape[1], shape[0]) if isinstance(module, Conv1D) else shape
    return found


def _is_router(model: Any, name: str, layer: Any) -> bool:
    outputs = getattr(layer, "out_features", None)
    return not _ROUTERS.isdisjoint(name.split(".")[-2:]) and outputs in expert_counts(model)


def expert_counts(model: Any) -> set[int]:
    """The numbers of experts that the configuration of ``model`` names: one, or none."""
    config = model.config.get_text_config()
    return {count for key in _EXPERT_COUNTS if (count := getattr(config, key, 0))}


def _names_of_experts(model: Any, names: Iterable[str]) -> set[str]:
    """Last parts of ``names`` that PEFT takes as names of experts, whose layers transformers 5 has fused.

    PEFT would adapt the experts instead of the module, such as a shared expert.
    """
    found = set()
    for leaf in {_leaf(name) for name in names}:
        config = LoraConfig(target_modules=[leaf])
        try:
            convert_peft_config_for_transformers(config, model=model, conversions=None)
        except ValueError:  # It wants the name of the fused partner as well.
            found.add(leaf)
            continue
        if leaf not in (config.target_modules or ()):
            found.add(leaf)
    return found


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
