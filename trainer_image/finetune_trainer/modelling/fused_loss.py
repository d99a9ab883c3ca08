"""The loss of next tokens from hidden states, so that the logits of a large vocabulary are never in memory at once.

The output layer of the model passes its inputs on, and a kernel computes its product and the cross entropy in parts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finetune_trainer.prepared import IGNORED_LABEL

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""The sum of the cross entropies of states (tokens, width), weights (vocabulary, width) and targets (tokens,)."""

_OUTPUT = "logits = self.lm_head(hidden_states"
_HARMLESS = re.compile(
    r"logits = self\.lm_head\(hidden_states(\[:, slice_indices, :\])?\)$"
    r"|logits=logits,$|logits,$|output = \(logits,\) \+ \w+\[1:\]$|loss = self\.loss_function\("
)
_TOLERANCE = 0.02
"""Relative difference of BF16 kernels."""


def plain_output(model: Any) -> torch.nn.Linear | None:
    """The output layer of a model whose logits are its outputs, with nothing done to them; None for other models.

    The code of the model class is compared, because a cap on logits may differ from none by less than BF16 shows.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layer = base.get_output_embeddings()
    # Not a subclass, such as a layer of PEFT or of bitsandbytes, which computes something else.
    if type(layer) is not torch.nn.Linear or layer.bias is not None or layer is not getattr(base, "lm_head", None):
        return None
    lines = (
        line.partition("#")[0].strip() for line in inspect.getsource(inspect.unwrap(type(base).forward)).split("\n")
    )
    using = [line for line in _without_text(lines) if re.search(r"\blogits\b", line)]
    if not all(_HARMLESS.match(line) for line in using) or sum(line.startswith(_OUTPUT) for line in using) != 1:
        return None
    return layer


def _without_text(lines: Iterator[str]) -> Iterator[str]:
    """Lines of code without those of a docstring."""
    inside = False
    for line in lines:
        quotes = line.count('"""')
        if not inside and not quotes:
            yield line
        inside ^= quotes % 2 == 1


class FusedLoss:
    """The loss of a model with the output layer ``output``; see `finetune_trainer.tasks.base.TaskForm.loss`."""

    def __init__(self, output: torch.nn.Linear, kernel: Kernel, dtype: torch.dtype) -> None:
        """
        Args:
            output: The output layer.
            kernel: The kernel.
            dtype: Type in which the output layer computes.
        """
        self._output = output
        self._kernel = kernel
        self._dtype = dtype
        self.active = False
        """Whether the model gives hidden states in place of logits."""

    @contextmanager
    def hidden_states(self) -> Iterator[None]:
        """Let the model give the inputs of its output layer as its logits."""
        layer: Any = self._output
        layer.forward = lambda states: states
        self.active = True
        try:
            yield
        finally:
            self.active = False
            del layer.forward

    def loss(self, states: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """The sum of the cross entropies of all labels, divided by ``count``.

        Args:
            states: The hidden states, of shape (batch, tokens, width).
            labels: Of shape (batch, tokens); each is the target of the token before it.
            count: Labels of the step that are not ignored.
        """
        targets = labels[:, 1:].flatten()
        learned = targets != IGNORED_LABEL
        chosen = states[:, :-1].flatten(0, 1)[learned]
        if not len(chosen):  # A row that only fills the last batch.
            return states.sum() * 0
        return self._kernel(chosen.to(self._dtype), self._output.weight.to(self._dtype), targets[learned]) / count


def reference(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The kernel as PyTorch computes it."""
    return torch.nn.functional.cross_entropy((states @ weight.T).float(), targets, reduction="sum")


def agrees(kernel: Kernel, output: torch.nn.Linear, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``kernel`` gives the losses and gradients of `reference` for random states and weights.

    Args:
        kernel: The kernel.
        output: The output layer, whose weights are not changed.
        device: Where to compute.
        dtype: Type of the states and weights.
    """
    drawn = torch.Generator(device).manual_seed(0)
    # Not the whole vocabulary, and several parts of it.
    weight = 0.05 * torch.randn(8192, output.in_features, generator=drawn, device=device).to(dtype)
    targets = torch.randint(0, len(weight), (96,), generator=drawn, device=device)
    found = []
    for compute in (kernel, reference):
        states = torch.randn(96, output.in_features, generator=drawn.manual_seed(1), device=device).to(dtype)
        states.requires_grad_()
        loss = compute(states, weight.requires_grad_(output.weight.requires_grad), targets)
        inputs = [states, weight] if output.weight.requires_grad else [states]
        found.append([loss.detach(), *torch.autograd.grad(loss / len(targets), inputs)])
    return all(
        bool((one.float() - other.float()).norm() <= _TOLERANCE * other.float().norm())
        for one, other in zip(*found, strict=True)
    )


def liger_cross_entropy() -> Kernel:
    """The kernel of Liger.

    Raises:
        ImportError: It is not installed.
    """
    from liger_kernel.ops import fused_linear_cross_entropy as liger

    def kernel(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        arguments = (None, None, IGNORED_LABEL, 0.0, 0.0, "sum", None, False, torch.float32)
        results: Any = liger.LigerFusedLinearCrossEntropyFunction.apply(states, weight, targets, *arguments)
        total: torch.Tensor = results[0] if isinstance(results, tuple) else results
        return total

    return kernel
