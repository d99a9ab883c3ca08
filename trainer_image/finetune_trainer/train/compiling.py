"""torch.compile of the layers that a model repeats."""

from __future__ import annotations

import os
import shutil
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import Device

_VARIANTS = 64
"""Compiled variants of a layer: of different lengths, for training and validation, and with different settings."""
_COMPILERS = {Device.CPU: ("CXX", ("g++", "clang++")), Device.GPU: ("CC", ("gcc", "clang", "cc"))}
"""The variable with the compiler that torch uses, and the names that it looks for. Triton compiles its launchers."""


def has_compiler(device: Device) -> bool:
    """Whether the machine has a compiler for models on ``device``."""
    variable, names = _COMPILERS[device]
    return any(shutil.which(name) for name in (os.environ.get(variable), *names) if name)


def require_compiler(device: Device) -> None:
    """Check that there is a compiler for ``training.compile``.

    Raises:
        StageFailure: BadConfiguration when there is none.
    """
    if not has_compiler(device):
        _, names = _COMPILERS[device]
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"training.compile needs a compiler ({' or '.join(names)}), and there is none: build the trainer image "
            "with --build-arg COMPILER=1, or set training.compile to false",
        )


def compile_layers(model: Any, backend: str = "inductor") -> int:
    """Compile the repeated layers of ``model`` in place; names and files of weights stay the same.

    Args:
        model: The model.
        backend: The compiler, as torch.compile names it.

    Returns:
        Number of compiled layers. They are compiled when they are first called.

    Raises:
        StageFailure: BadConfiguration when the class of the model does not name its repeated layers.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    # A layer in another one, such as the embeddings of some encoders, is compiled with it.
    inner = {id(part) for layer in layers for part in layer.modules() if part is not layer}
    layers = [layer for layer in layers if id(layer) not in inner]
    if not layers:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"training.compile is true, but {type(base).__name__} does not name the layers that it repeats: set "
            "training.compile to false",
        )
    import torch._dynamo

    torch._dynamo.config.recompile_limit = _VARIANTS
    for layer in layers:
        layer.compile(backend=backend)
    return len(layers)
