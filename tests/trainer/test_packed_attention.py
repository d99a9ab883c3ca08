"""Attention over packed rows computes what SDPA does; a reference with the interface of the kernel takes its place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM

from finetune_trainer.modelling.packed_attention import PackedAttention, examples_of, installed
from finetune_trainer.train.causal import CausalCollator, CausalDataset
from tests.families.tiny import build, config_of

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "llama4_text": {
        "attention_chunk_size": 16,
        "layer_types": ["chunked_attention", "full_attention"] * 2,
        # A token on the border between two experts may take the other one for the smallest difference.
        "num_local_experts": 1,
        "num_experts_per_tok": 1,
    },
}
"""Models whose heads share keys, with windows of tokens, and with chunks, each of which is as an example of its own."""


def reference(  # noqa: PLR0917 — the signature is that of the kernel.
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    same_bounds: torch.Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`torch.nn.attention.varlen.varlen_attn` as its documentation says; each example by itself."""
    assert bounds is same_bounds
    assert bounds.dtype == torch.int32
    assert longest == longest_key == int(bounds.diff().max())
    assert window_size[1] == 0
    parts = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        before = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (before >= 0) & (before <= window_size[0] if window_size[0] >= 0 else True)
        heads = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
        output = scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        parts.append(output[0].transpose(0, 1))
    return torch.cat(parts)


def without_shared_heads(*tensors: Any, scale: float | None, window_size: tuple[int, int]) -> torch.Tensor:
    """The interface of torch before it has ``enable_gqa``."""
    assert tensors[0].shape[1] == tensors[1].shape[1]
    return reference(*tensors, scale=scale, window_size=window_size)


def packed_batch(rows: int = 2, row_length: int = 48) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(0)
    texts = [generator.integers(3, 100, generator.integers(3, 30)).tolist() for _ in range(12)]
    ids = pa.list_(pa.int32())
    data = CausalDataset(pa.table({"input_ids": pa.array(texts, ids), "labels": pa.array(texts, ids)}), row_length)
    return CausalCollator(0)([data[row] for row in range(rows)])


def outputs(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients in BF16, of weights in FP32 as Trainer has them."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**batch, use_cache=False)
    found.loss.backward()
    return found.logits.detach().float(), {
        name: parameter.grad.float() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / (other.norm() + 1e-6))


@pytest.mark.parametrize(
    ("kind", "kernel"),
    [*((kind, reference) for kind in KINDS), ("llama", without_shared_heads)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_layer_and_gradient_is_that_of_sdpa(kind: str, kernel: Any) -> None:
    model = build(config_of(kind, "CAUSAL_LM", KINDS[kind]), AutoModelForCausalLM).train()
    batch = packed_batch()
    logits, gradients = outputs(model, batch)
    attention = PackedAttention(kernel, "cpu")
    with installed(attention):
        found, found_gradients = outputs(model, batch)
    assert (attention.layers, attention.fallbacks) == (model.config.num_hidden_layers, 0)
    assert not torch.equal(found, logits)
    assert difference(found, logits) < 0.01
    assert found_gradients.keys() == gradients.keys()
    assert all(difference(found_gradients[name], gradients[name]) < 0.03 for name in gradients)


def test_recomputed_layers_have_the_same_gradients() -> None:
    model = build(config_of("llama", "CAUSAL_LM", {}), AutoModelForCausalLM).train()
    batch = packed_batch()
    _, gradients = outputs(model, batch)
    model.activation_checkpointing_enable({"use_reentrant": False})
    attention = PackedAttention(reference, "cpu")
    with installed(attention):
        _, found = outputs(model, batch)
    assert attention.layers == 2 * model.config.num_hidden_layers
    assert all(difference(found[name], gradients[name]) < 0.03 for name in gradients)


def test_rows_with_one_example_or_in_full_precision_stay_with_sdpa() -> None:
    model = build(config_of("llama", "CAUSAL_LM", {}), AutoModelForCausalLM)
    attention = PackedAttention(reference, "cpu")
    tokens = torch.randint(3, 100, (2, 20))
    with installed(attention):
        outputs(model, {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones_like(tokens)})
        assert (attention.layers, attention.fallbacks) == (0, 0)
        model(**packed_batch(), use_cache=False)
        assert (attention.layers, attention.fallbacks) == (0, model.config.num_hidden_layers)


class TestArguments:
    """What only SDPA computes."""

    def call(self, mask: torch.Tensor, width: int = 16, **named: Any) -> PackedAttention:
        attention = PackedAttention(reference, "cpu")
        query, key, value = (torch.randn(1, 2, 6, width, dtype=torch.bfloat16) for _ in range(3))
        mask._examples = examples_of(mask, None)  # type: ignore[attr-defined]
        attention.forward(torch.nn.Module(), query, key, value, mask, **named)
        return attention

    def test_plain_arguments_use_the_kernel(self) -> None:
        assert self.call(torch.ones(1, 1, 6, 6, dtype=torch.bool).tril(), scaling=0.5).layers == 1

    @pytest.mark.parametrize(
        ("width", "named"), [(16, {"dropout": 0.1}), (12, {}), (264, {}), (16, {"position_bias": torch.zeros(1)})]
    )
    def test_others_use_sdpa(self, width: int, named: dict[str, Any]) -> None:
        attention = self.call(torch.ones(1, 1, 6, 6, dtype=torch.bool).tril(), width, **named)
        assert (attention.layers, attention.fallbacks) == (0, 1)

    def test_softcap_is_refused_as_by_sdpa(self) -> None:
        with pytest.raises(ValueError, match="does not support `softcap`"):
            self.call(torch.ones(1, 1, 6, 6, dtype=torch.bool).tril(), softcap=20.0)


class TestExamples:
    def mask(self, lengths: list[int], window: int | None = None) -> torch.Tensor:
        number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        mask = (number[:, None] == number).tril()
        return (mask if window is None else mask.triu(1 - window))[None, None]

    @pytest.mark.parametrize("lengths", [[7], [3, 4], [1, 1, 5], [2000, 1, 500]])
    def test_bounds(self, lengths: list[int]) -> None:
        found = examples_of(self.mask(lengths), None)
        assert found is not None
        assert found.bounds.tolist() == np.cumsum([0, *lengths]).tolist()
        assert found.longest == max(lengths)

    def test_each_row_of_a_batch_starts_an_example(self) -> None:
        found = examples_of(torch.cat([self.mask([3, 4]), self.mask([7])]), None)
        assert found is not None
        assert found.bounds.tolist() == [0, 3, 7, 14]

    def test_a_window(self) -> None:
        found = examples_of(self.mask([5, 4], window=2), 2)
        assert found is not None
        assert (found.bounds.tolist(), found.window) == ([0, 5, 9], 2)

    @pytest.mark.parametrize("place", [(4, 5), (6, 1), (6, 0), (1500, 3)])
    def test_any_other_pair_makes_it_another_mask(self, place: tuple[int, int]) -> None:
        mask = self.mask([4, 3, 1600])
        mask[0, 0][place] ^= True
        assert examples_of(mask, None) is None

    @pytest.mark.parametrize(
        ("mask", "window"),
        [
            (torch.ones(1, 1, 4, 4, dtype=torch.bool), None),
            (torch.ones(1, 1, 4, 4, dtype=torch.bool).tril(), 2),
            (torch.ones(1, 2, 4, 4, dtype=torch.bool).tril(), None),
            (torch.ones(1, 1, 4, 6, dtype=torch.bool).tril(), None),
            (torch.full((1, 1, 4, 4), -math.inf).triu(1), None),
        ],
    )
    def test_masks_of_other_kinds(self, mask: torch.Tensor, window: int | None) -> None:
        assert examples_of(mask, window) is None
