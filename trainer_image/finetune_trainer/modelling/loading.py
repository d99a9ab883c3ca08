"""Loads models with transformers, for training and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.exceptions import first_line
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.modelling.quantizing import Rounding
from finetune_trainer.patches.peft import bitsandbytes
from finetune_trainer.patches.transformers import unpartitioned
from finetune_trainer.prepared import ModelHandling

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model, and the names of its randomly initialised parameters."""

    model: PreTrainedModel
    random: frozenset[str]
    """Parameters that the weight files lack, or that a new head replaces."""

    def placed(self, hardware: Hardware) -> LoadedModel:
        """The model on its device and in evaluation mode."""
        model: Any = self.model
        return replace(self, model=model.to(hardware.device).eval())

    def complete(self) -> PreTrainedModel:
        """Return the model if all its parameters were loaded.

        Raises:
            StageFailure: BadData when a parameter is randomly initialised.
        """
        if self.random:
            raise StageFailure(
                Reason.BAD_DATA,
                f"The weights of {type(self.model).__name__} lack {len(self.random)} parameters, such as "
                f"{min(self.random)}, and would be random; upload the complete model, or take one that was saved as a "
                f"{type(self.model).__name__}",
            )
        return self.model


def load(
    auto_class: Any,
    directory: Path,
    dtype: torch.dtype,
    name: str,
    *,
    new_head: bool = False,
    rounding: Rounding | None = None,
    empty: bool = False,
    **settings: Any,
) -> LoadedModel:
    """Load a model from local safetensors files.

    Args:
        auto_class: The class of transformers, such as AutoModelForCausalLM.
        directory: Directory of the model.
        dtype: Type of the weights.
        name: Name of the model in error messages.
        new_head: Replace the last layer of a classifier, which the weight files may have for other labels, by a
            randomly initialised one for the ``num_labels`` of ``settings``.
        rounding: How the linear layers are stored, if they are rounded; the model is then on that device, and whole
            also with ZeRO-3.
        empty: Load no weights: the parameters are on the device ``meta``, and only shapes and names are of interest.
        settings: Additional arguments of ``from_pretrained``.

    Raises:
        StageFailure: BadConfiguration when the directory does not contain a model of this class.
    """
    from_files = partial(
        auto_class.from_pretrained,
        directory,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=new_head,
        **settings,
    )
    with unpartitioned() if rounding else nullcontext():
        try:
            placed: dict[str, Any] = {"device_map": {"": "meta"}} if empty else {}
            model, info = from_files(**(_rounded(rounding, from_files, dtype) if rounding else placed))
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # transformers does not check the values of config.json, which may fail in any way.
            model_type = (auto_class.__name__.removeprefix("AutoModel") or "a model without a head").removeprefix("For")
            raise StageFailure(
                Reason.BAD_CONFIGURATION, f"{name} cannot be loaded as {model_type}: {first_line(error)}"
            ) from error
        random = _random(info)
        if new_head:
            _check_mismatches(name, info["mismatched_keys"], settings["num_labels"])
            replaced = _last_layer(model, settings["num_labels"]) - random
            _initialise_again(model, replaced)
            random |= replaced
    _log.info("loaded %s in %s%s", type(model).__name__, dtype, f", as {rounding.quantization}" if rounding else "")
    return LoadedModel(model, random)


def _rounded(rounding: Rounding, from_files: Callable[..., Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` that round the model."""
    bitsandbytes()
    # Without weights: a module that the files have no weights for is trained, and must not be rounded.
    empty, info = from_files(device_map={"": "meta"})
    return rounding.settings(dtype, empty, _random(info))


def _random(info: Mapping[str, Any]) -> frozenset[str]:
    """The parameters without stored values, from the loading info of transformers."""
    return frozenset(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}


def attention_settings(handling: ModelHandling) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` for the attention implementation that was tested."""
    return {} if handling.attention is None else {"attn_implementation": handling.attention}


def outside_backbone(model: torch.nn.Module) -> list[str]:
    """Names of the modules with weights beside the backbone; empty if the model has no backbone of its own."""
    backbone = str(getattr(model, "base_model_prefix", ""))
    if not hasattr(model, backbone):
        return []
    children = (name for name, part in model.named_children() if next(part.parameters(), None) is not None)
    return [name for name in children if name != backbone]


def _check_mismatches(name: str, mismatched: Any, labels: int) -> None:
    """Check that all tensors of another shape than the model expects differ only in the number of labels."""
    for key, stored, expected in mismatched:
        if expected[0] != labels or tuple(stored[1:]) != tuple(expected[1:]):
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"{name} cannot be loaded: {key} has the shape {tuple(stored)}, but its config.json means "
                f"{tuple(expected)}; save the model again with save_pretrained",
            )


def _last_layer(model: PreTrainedModel, labels: int) -> frozenset[str]:
    """Names of the parameters outside the backbone with one row for each label."""
    backbone = f"{model.base_model_prefix}."
    return frozenset(
        key
        for key, parameter in model.named_parameters()
        if not key.startswith(backbone) and getattr(parameter, "ds_shape", parameter.shape)[0] == labels
    )


def _initialise_again(model: Any, names: frozenset[str]) -> None:
    """Give parameters new random weights, as ``from_pretrained`` does for those that the weight files lack."""
    from transformers.integrations import deepspeed as integration

    partitioned: Any = integration
    # In a fixed order: the iteration over a set of names differs between processes, and with it the random numbers.
    ordered = sorted(names)
    parameters = [model.get_parameter(name) for name in ordered]
    gathered: AbstractContextManager[Any] = nullcontext()
    if partitioned.is_deepspeed_zero3_enabled():
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)
    with gathered, torch.no_grad():
        for name, parameter in zip(ordered, parameters, strict=True):
            parameter._is_hf_initialized = False
            model._init_weights(model.get_submodule(name.rpartition(".")[0]))


def set_padding(model: Any, token: int) -> None:
    """Set the padding token of ``model``: a decoder classifies at the last token that is not padding.

    A model for several modalities reads it from the configuration of its text model.
    """
    model.config.pad_token_id = token
    model.config.get_text_config().pad_token_id = token


def set_up(seed: int) -> None:
    """Seed torch, select deterministic kernels, and suppress the loading messages of transformers."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    progress_bars: Any = transformers_logging
    progress_bars.disable_progress_bar()
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def check_vocabulary(model: PreTrainedModel, rows: TokenRows) -> None:
    """Check that ``model`` has an embedding for every token id in ``rows``.

    Raises:
        StageFailure: BadConfiguration when it lacks one.
    """
    embeddings: Any = model.get_input_embeddings()
    known = int(embeddings.weight.shape[0])
    highest = int(rows.values.max(initial=0))
    if highest >= known:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The data contains token id {highest}, but the vocabulary of the model has {known} tokens; use the "
            "tokenizer of this model",
        )


def check_finite(values: torch.Tensor, model: str, what: str) -> None:
    """Check that ``values``, an output of the baseline or tuned model, contains neither NaN nor infinity.

    Raises:
        StageFailure: Diverged when it does.
    """
    if not bool(torch.isfinite(values).all()):
        hint = "lower training.learningRate" if model == "tuned" else "set training.precision to FP32"
        raise StageFailure(Reason.DIVERGED, f"The {model} model's {what} on the test split is not finite; {hint}")
