"""LoRA adapters that start with a part of the base weights: PiSSA, OLoRA and LoftQ.

These methods take the part W0 = scaling · B0 A0 of a weight W into the adapter, and train W − W0 + scaling · B A. PEFT
subtracts W0 from the base model, which is then another one: with the adapter disabled it is not the base model, and the
adapter is of no use without it. Here the base model stays as it is, and each adapted module subtracts W0 x from its
output; the trained function is the same. `published` adds −W0 to the adapter, whose rank doubles.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear

from finetune_api.failures import Reason, StageFailure
from finetune_api.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_api.spec import LoraInitialization
from finetune_trainer.json_files import read_json
from finetune_trainer.patches.peft import bitsandbytes

_ADAPTER = "default"
_START_A, _START_B = "start_A", "start_B"
_BLOCK = 64
"""Weights that share a scale in NF4, as bitsandbytes quantises by default."""


def start_from_weights(model: Any, initialization: LoraInitialization) -> None:
    """Give every adapter of ``model``, a PeftModel, its part of the base weights; its output stays that of the base.

    Raises:
        StageFailure: BadConfiguration when a module is no linear layer.
    """
    for name, layer in _layers(model):
        if not isinstance(layer, Linear):
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"method.lora.initialization {initialization} is only for linear layers, and {name} is none: leave it "
                "out of targetModules",
            )
        base: Any = layer.get_base_layer()
        weight = base.weight.detach().float()
        weight = weight.T if layer.fan_in_fan_out else weight
        rank, scaling = layer.r[_ADAPTER], layer.scaling[_ADAPTER]
        matrices: Any = (layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight)
        of_a, of_b = matrices
        part_a, part_b = _STARTS[initialization](weight, rank)
        # As in PEFT, the part that OLoRA subtracts is scaled.
        root = 1 if initialization is LoraInitialization.OLORA else math.sqrt(scaling)
        with torch.no_grad():
            of_a.copy_(part_a / root)
            of_b.copy_(part_b / root)
        # Not in the state of the model: a training that resumes computes them again from the base weights.
        layer.register_buffer(_START_A, of_a.detach().clone(), persistent=False)
        layer.register_buffer(_START_B, of_b.detach().clone(), persistent=False)
        layer.register_forward_hook(_without_start)


def published(model: Any, directory: Path) -> None:
    """Change the adapter in ``directory``, which ``model`` has saved, to the one for the untouched base model."""
    path = directory / ADAPTER_WEIGHTS
    tensors = load_file(path)
    for name, layer in _layers(model):
        for end, start, axis, sign in (("lora_A", _START_A, 0, 1), ("lora_B", _START_B, 1, -1)):
            key = f"{name}.{end}.weight"
            trained = tensors[key]
            added = sign * getattr(layer, start).to(trained)
            tensors[key] = torch.cat([trained, added.cpu()], dim=axis).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    config_path = directory / ADAPTER_CONFIG
    config = read_json(config_path)
    # The scaling stays the same: alpha / rank, or alpha / sqrt(rank).
    factor = math.sqrt(2) if config.get("use_rslora") else 2
    config["r"] *= 2
    config["lora_alpha"] *= factor
    config["rank_pattern"] = {key: 2 * rank for key, rank in (config.get("rank_pattern") or {}).items()}
    config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _layers(model: Any) -> Iterator[tuple[str, LoraLayer]]:
    """The adapted modules of a PeftModel, by the names that they have in the files of its adapter."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and module.r:
            yield name, module


def _without_start(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """The output of an adapted module without W0 x. It has no dropout, because W0 belongs to the base weights."""
    if layer.disable_adapters:
        return output
    of_a, of_b = getattr(layer, _START_A), getattr(layer, _START_B)
    start = linear(linear(inputs[0].to(of_a.dtype), of_a), of_b) * layer.scaling[_ADAPTER]
    result: torch.Tensor = output - start.to(output.dtype)
    return result


def _pissa(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B with the largest singular directions of ``weight``, so that W0 is the best approximation of that rank."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def _olora(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B with the first rows and columns of the QR decomposition of ``weight``."""
    orthogonal, upper = torch.linalg.qr(weight)
    return upper[:rank], orthogonal[:, :rank]


def _loftq(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B with the largest singular directions of what NF4 would lose of ``weight``."""
    functional = bitsandbytes().functional
    packed, state = functional.quantize_4bit(weight.contiguous(), blocksize=_BLOCK, quant_type="nf4")
    return _pissa(weight - functional.dequantize_4bit(packed, state), rank)


_STARTS = {
    LoraInitialization.PISSA: _pissa,
    LoraInitialization.OLORA: _olora,
    LoraInitialization.LOFTQ: _loftq,
}
