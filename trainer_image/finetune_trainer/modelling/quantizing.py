"""Base models whose linear layers are stored in 4 or 8 bits, by bitsandbytes through transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizers_utils import should_convert_module

from finetune_api.spec import FineTuneJobSpec, Quantization

if TYPE_CHECKING:
    from finetune_trainer.tasks.base import TaskForm


@dataclass(frozen=True)
class Rounding:
    """How a base model is stored."""

    quantization: Quantization
    """Not None."""
    device: torch.device
    heads: Callable[[Any], Iterable[str]]
    """Names of the modules of a model that are trained fully."""
    partitioned: bool = False
    """Whether ZeRO-3 shares the weights out after loading. It flattens them, and so needs one type for all."""

    def settings(self, dtype: torch.dtype, model: Any, random: Iterable[str]) -> dict[str, Any]:
        """The arguments of ``from_pretrained`` for ``model``, as `exact_modules` describes it."""
        # The default of the library names a parameter, and not the module, of a head.
        skipped = sorted(exact_modules(model, self.heads(model), random))
        settings: dict[str, Any] = {"load_in_8bit": True}
        if self.quantization is Quantization.NF4:
            settings = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": dtype,
                "bnb_4bit_quant_storage": dtype if self.partitioned else None,
            }
        configure: Any = BitsAndBytesConfig
        config = configure(**settings, llm_int8_skip_modules=skipped)
        return {"quantization_config": config, "device_map": {"": self.device}}


def rounding_of(
    spec: FineTuneJobSpec, task: TaskForm, device: torch.device, *, partitioned: bool = False
) -> Rounding | None:
    """How ``spec`` stores the base model on ``device``; None if it is not rounded."""
    if spec.model.quantization is Quantization.NONE:
        return None
    return Rounding(spec.model.quantization, device, task.head_modules, partitioned)


def exact_modules(model: Any, head: Iterable[str], random: Iterable[str]) -> set[str]:
    """Names of the modules that are not rounded: the output layer, and what is trained fully.

    Args:
        model: The model, whose weights do not matter.
        head: Names of its modules that are trained fully.
        random: Names of its parameters that the weight files lack.
    """
    output = model.get_output_embeddings()
    outputs = {name for name, module in model.named_modules() if output is not None and module is output}
    names = {*head, *outputs, *(key.rpartition(".")[0] for key in random)}
    return {name for name in names if not any(name.startswith(f"{other}.") for other in names)}


def rounded_parameters(model: Any, exact: Iterable[str]) -> int:
    """Number of the weights that bitsandbytes rounds; those of fused experts are no linear layers.

    Args:
        model: A model that is not rounded; its weights do not matter.
        exact: Modules that stay as they are.
    """
    kept = [*exact, *(model._keep_in_fp32_modules or ())]
    # As replace_with_bnb_linear in transformers/integrations/bitsandbytes.py: no subclasses.
    return sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept)
    )


def size_of(module: Any, parameter: torch.nn.Parameter) -> int:
    """Number of the elements of a parameter of ``module``, also if it is rounded or ZeRO-3 has shared it out."""
    if type(parameter).__name__ == "Params4bit":  # It holds two or more in an element.
        return int(module.in_features * module.out_features)
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def stored_as(model: Any) -> dict[str, Any] | None:
    """The arguments of BitsAndBytesConfig that load the base of ``model`` again, as JSON; None if it is not rounded."""
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    left_out = ("_", "quant_method", "bnb_4bit_quant_storage")  # Only training depends on the storage.
    return {name: value for name, value in config.to_diff_dict().items() if not name.startswith(left_out)}
