"""Whether a training fits into the memory of the GPU without recomputing activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

_STATE_BYTES = 12
"""Of each trained parameter: the two averages of AdamW and, with ZeRO, weights in FP32."""
_USABLE = 0.92
"""Share of the memory that a step may use; the rest is for communication and fragments."""


class Memory(Protocol):
    """The memory of a device."""

    def reset(self) -> None:
        """Start to measure the peak."""

    def peak(self) -> int:
        """Largest number of bytes in use since `reset`."""

    def total(self) -> int:
        """Bytes that this process can use."""


class GpuMemory:
    """The memory of a GPU; implements `Memory`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def total(self) -> int:
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device)


def fits(model: Any, step: Callable[[], torch.Tensor], memory: Memory, *, shared_by: int) -> bool:
    """Whether a step fits, after trying its forward and backward pass.

    Nothing of the training changes: neither gradients, nor the state of the random numbers.

    Args:
        model: The model, on its device.
        step: Computes the loss of the longest batch.
        memory: The memory of the device.
        shared_by: Processes that share the state of the optimizer.
    """
    training = model.training
    devices = [parameter.device for parameter in model.parameters() if parameter.is_cuda][:1]
    memory.reset()
    try:
        with torch.random.fork_rng([device.index or 0 for device in devices]):
            model.train()
            loss: Any = step()
            loss.backward()
        peak = memory.peak()
    except torch.OutOfMemoryError:
        return False
    finally:
        model.train(training)
        model.zero_grad(set_to_none=True)
        if devices:
            torch.cuda.empty_cache()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return bool(peak + _STATE_BYTES * trained // shared_by <= _USABLE * memory.total())
