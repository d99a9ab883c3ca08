"""Attention over packed rows that computes only what an example may see, with ``torch.nn.attention.varlen``.

It takes the place of ``sdpa`` in the registries of transformers. SDPA computes all pairs of tokens of a packed row and
then masks most of them. Every mask is still made as transformers makes it, and compared with the one that the
boundaries of the examples mean. Where they differ, or where the kernel cannot be used, SDPA computes the layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

Kernel = Callable[..., torch.Tensor]
"""A function with the arguments of `torch.nn.attention.varlen.varlen_attn`."""

_SDPA = "sdpa"
_EXAMPLES = "_examples"
"""Attribute of a mask with its `Examples`; a mask that a model derives from it has no such attribute."""
_BLOCK = 1024
"""Rows of a mask that are compared at a time, so that the memory of long rows stays small."""
_LARGEST_HEAD = 256
_OF_SDPA_ONLY = ("softcap", "position_bias", "cache")
"""Arguments that change what SDPA computes, or that it refuses."""


@dataclass(frozen=True)
class Examples:
    """The examples in the rows of a batch, as the kernel takes them."""

    bounds: torch.Tensor
    """The first token of each example in the joined rows, and the number of tokens; int32 of shape (examples + 1,)."""
    longest: int
    """Tokens of the longest example."""
    window: int | None
    """How many tokens, the last of them its own, a token sees; None if it sees all before it in its example."""


def examples_of(mask: torch.Tensor, window: int | None) -> Examples | None:
    """The examples that ``mask`` keeps apart; None if it is another mask than theirs.

    Args:
        mask: True where a token (row) sees another (column), of shape (batch, 1, tokens, tokens).
        window: The number of tokens that each sees at most.
    """
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2] != mask.shape[3] or mask.dtype is not torch.bool:
        return None
    seen = mask[:, 0]
    rows, tokens = seen.shape[:2]
    # The first token of an example is one that does not see the token before it.
    first = torch.ones(rows, tokens, dtype=torch.bool, device=mask.device)
    first[:, 1:] = ~seen.diagonal(offset=-1, dim1=1, dim2=2)
    number = first.cumsum(-1)
    place = torch.arange(tokens, device=mask.device)
    same = torch.ones((), dtype=torch.bool, device=mask.device)
    for start in range(0, tokens, _BLOCK):
        part = slice(start, start + _BLOCK)
        before = place[part, None] - place
        expected = (number[:, part, None] == number[:, None, :]) & (before >= 0)
        if window is not None:
            expected &= before < window
        same &= (expected == seen[:, part]).all()
    if not same:
        return None
    starts = first.flatten().nonzero().flatten()
    bounds = torch.cat([starts, starts.new_tensor([rows * tokens])]).to(torch.int32)
    return Examples(bounds, int(bounds.diff().max()), window)


class PackedAttention:
    """The attention function and the mask function."""

    def __init__(self, kernel: Kernel, device_type: str = "cuda") -> None:
        """
        Args:
            kernel: Computes the attention.
            device_type: Type of the devices that it works on.
        """
        self._kernel = kernel
        self._device_type = device_type
        # Not in the first versions of torch that have the kernel.
        self._shares_heads = "enable_gqa" in inspect.signature(kernel).parameters
        self.layers = 0
        """How many times a layer was computed with the kernel."""
        self.fallbacks = 0
        """How many times SDPA computed a layer with a mask."""

    def mask(self, *arguments: Any, **named: Any) -> torch.Tensor | None:
        """The mask of SDPA, with its `Examples` if it has some; see `transformers.masking_utils.sdpa_mask`."""
        mask: torch.Tensor | None = sdpa_mask(*arguments, **named)
        if mask is not None and mask.device.type == self._device_type:
            setattr(mask, _EXAMPLES, examples_of(mask, named.get("local_size")))
        return mask

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # The boundaries differ in each batch.
    def forward(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **named: Any,
    ) -> tuple[torch.Tensor, None]:
        """As `transformers.integrations.sdpa_attention.sdpa_attention_forward`.

        Args:
            module: The layer.
            query: Of shape (batch, heads, tokens, width).
            key: Likewise; it may have fewer heads.
            value: As ``key``.
            attention_mask: The result of `mask`.
            named: The other arguments of that function.

        Returns:
            The output, of shape (batch, tokens, heads, width), and None for the weights.
        """
        examples: Examples | None = getattr(attention_mask, _EXAMPLES, None)
        # Only the type that autocast gives SDPA, which it does not know the kernel for.
        if torch.is_autocast_enabled(query.device.type):
            dtype = torch.get_autocast_dtype(query.device.type)
        else:
            dtype = query.dtype
        if examples is None or not self._computes(query, key, value, dtype, named):
            self.fallbacks += attention_mask is not None
            output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **named)
            return output, None
        self.layers += 1
        rows, heads, tokens, width = query.shape
        joined = [tensor.to(dtype).transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]
        more: dict[str, Any] = {}
        if heads != key.shape[1]:
            if self._shares_heads:
                more["enable_gqa"] = True
            else:
                joined[1:] = [tensor.repeat_interleave(heads // key.shape[1], dim=1) for tensor in joined[1:]]
        left = -1 if examples.window is None else examples.window - 1
        output = self._kernel(
            *joined,
            examples.bounds,
            examples.bounds,
            examples.longest,
            examples.longest,
            scale=named.get("scaling"),
            window_size=(left, 0),
            **more,
        )
        return output.view(rows, tokens, heads, width), None

    def _computes(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dtype: torch.dtype, named: dict[str, Any]
    ) -> bool:
        """Whether the kernel computes the same as SDPA with these arguments."""
        width = query.shape[-1]
        return (
            query.device.type == self._device_type
            and dtype in (torch.bfloat16, torch.float16)
            and query.shape[2] == key.shape[2]
            and query.shape[1] % key.shape[1] == 0
            and width == key.shape[-1] == value.shape[-1] <= _LARGEST_HEAD
            and width % 8 == 0
            and not named.get("dropout")
            and all(named.get(name) is None for name in _OF_SDPA_ONLY)
        )


def supported() -> bool:
    """Whether this torch and this GPU have the kernel."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return torch.version.hip is None and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def install(attention: PackedAttention) -> None:
    """Let all models of this process compute SDPA with ``attention``."""
    _register(attention.forward, attention.mask)


@contextmanager
def installed(attention: PackedAttention) -> Iterator[PackedAttention]:
    """`install`, until the end of the context."""
    before = AttentionInterface._global_mapping[_SDPA], AttentionMaskInterface._global_mapping[_SDPA]
    install(attention)
    try:
        yield attention
    finally:
        _register(*before)


def _register(forward: Any, mask: Any) -> None:
    AttentionInterface.register(_SDPA, forward)
    AttentionMaskInterface.register(_SDPA, mask)
