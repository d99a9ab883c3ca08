"""Changes to bitsandbytes on CPUs with AVX512."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

VERSION = "0.50.2"
"""The version that the changes were checked with."""

_DEQUANTIZE = "bitsandbytes::dequantize_4bit"
_overrides: list[torch.library.Library] = []  # An override lasts as long as its library.


def same_weights_on_every_cpu(library: Any) -> None:
    """Make the 4-bit weights of a model the same on each CPU; before a model is loaded.

    Args:
        library: The module bitsandbytes.
    """
    _one_layout(library)
    if not _overrides:
        _right_scales()


def _one_layout(library: Any) -> None:
    """Keep Linear4bit from storing its weights in another layout where the CPU has AVX512-BF16.

    It rearranges them in the first forward pass without gradients, and rounds scales and inputs to BF16. Then layers
    that are narrower than 64 or no multiple of 32 high fail, an evaluation measures other weights than training has,
    and a training that goes on after an evaluation gets no gradients through these layers. Source:
    ``Linear4bit.forward`` in bitsandbytes/nn/modules.py and ``matmul_4bit`` in bitsandbytes/autograd/_functions.py.
    """
    library.nn.modules.has_avx512bf16 = bool  # A function that returns False.


def _right_scales() -> None:
    """Give each weight the scale of its block where a block ends within a row.

    The kernel for AVX512 begins a block with each row. Rows of a multiple of 32 that is no multiple of the block then
    have errors as large as their weights. Source:
    ``bitsandbytes::dequantize_4bit`` in bitsandbytes/backends/cpu/ops.py.
    """
    kernel = torch.library.get_kernel(_DEQUANTIZE, "CPU")

    def dequantize(  # noqa: PLR0917 — the signature is that of the operator.
        keys: Any,
        weights: torch.Tensor,
        scales: torch.Tensor,
        blocksize: int,
        quant_type: str,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        one_row = [math.prod(shape)]  # Blocks go on from row to row.
        found: torch.Tensor = kernel.call_boxed(keys, weights, scales, blocksize, quant_type, one_row, dtype)
        return found.reshape(tuple(shape))

    override: Any = torch.library.Library("bitsandbytes", "IMPL")  # type: ignore[no-untyped-call]
    override.impl("dequantize_4bit", dequantize, "CPU", with_keyset=True, allow_override=True)
    _overrides.append(override)
