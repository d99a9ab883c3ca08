"""RMS norms in one kernel each, where the kernel gives what the layer gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch


@dataclass(frozen=True)
class Form:
    """How a class of layers computes its norm."""

    epsilon: float
    added: float
    """What is added to the weight."""
    rounding: str
    """Where numbers are rounded, as Liger names it."""


Kernel = Callable[[torch.Tensor, torch.Tensor, Form], torch.Tensor]
"""The norm of hidden states, by the weight and the form."""

_FORMS = ((0.0, "llama"), (1.0, "gemma"), (0.0, "gemma"))
"""`Form.added` and `Form.rounding` of the models that Liger knows."""
_TOLERANCE = 0.01


def fuse_norms(model: torch.nn.Module, kernel: Kernel, device: torch.device, dtype: torch.dtype) -> int:
    """Compute the frozen RMS norms of ``model`` with ``kernel``, each class of layer only if a sample of it agrees.

    Args:
        model: The model.
        kernel: The kernel.
        device: Where to compare.
        dtype: Type of the hidden states.

    Returns:
        How many layers use the kernel.
    """
    forms: dict[tuple[type, float], Form | None] = {}
    fused = 0
    for module in model.modules():
        epsilon = _epsilon(module)
        if epsilon is None:
            continue
        key = (type(module), epsilon)
        if key not in forms:
            forms[key] = _form(module, epsilon, kernel, device, dtype)
        form = forms[key]
        if form is not None:
            layer: Any = module
            layer.forward = partial(_normalised, layer, kernel, form)
            fused += 1
    return fused


def _normalised(layer: Any, kernel: Kernel, form: Form, states: torch.Tensor) -> torch.Tensor:
    return kernel(states, layer.weight, form)


def _epsilon(module: torch.nn.Module) -> float | None:
    """The epsilon of a frozen RMS norm with only a weight; None for other modules."""
    if not type(module).__name__.endswith("RMSNorm") or [name for name, _ in module.named_parameters()] != ["weight"]:
        return None
    weight: Any = module.weight
    if weight.requires_grad or weight.ndim != 1 or not weight.numel():  # The last with ZeRO-3.
        return None
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    return epsilon if isinstance(epsilon, float) else None


def _form(
    module: torch.nn.Module, epsilon: float, kernel: Kernel, device: torch.device, dtype: torch.dtype
) -> Form | None:
    """The form of the kernel that agrees with ``module``; None if none does."""
    sample: Any = copy.deepcopy(module).to(device)
    drawn = torch.Generator(device).manual_seed(0)
    # Weights are close to 1 or to 0; others show what is added to them.
    sample.weight.data = torch.rand(sample.weight.shape, generator=drawn, device=device).to(sample.weight.dtype)
    states = torch.randn(4, 8, len(sample.weight), generator=drawn, device=device).to(dtype)
    expected = _with_gradient(sample, states)
    for added, rounding in _FORMS:
        form = Form(epsilon, added, rounding)
        found = _with_gradient(partial(_normalised, sample, kernel, form), states)
        if all(
            one.dtype == other.dtype and (one.float() - other.float()).norm() <= _TOLERANCE * other.float().norm()
            for one, other in zip(found, expected, strict=True)
        ):
            return form
    return None


def _with_gradient(norm: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> list[torch.Tensor]:
    states = states.clone().requires_grad_()
    result = norm(states)
    (gradient,) = torch.autograd.grad(result.float().square().sum(), states)
    return [result.detach(), gradient]


def liger_norm() -> Kernel:
    """The kernel of Liger.

    Raises:
        ImportError: It is not installed.
    """
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    def kernel(states: torch.Tensor, weight: torch.Tensor, form: Form) -> torch.Tensor:
        arguments = (form.epsilon, form.added, form.rounding, False, None)
        result: torch.Tensor = LigerRMSNormFunction.apply(states, weight, *arguments)
        return result

    return kernel
