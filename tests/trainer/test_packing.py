"""Packed rows give the same loss and gradients as separate conversations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.train.causal import CausalCollator, CausalDataset

ROW_LENGTH = 64


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=ROW_LENGTH,
        use_cache=False,  # As in training: with a cache, transformers does not detect packed rows.
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def conversations() -> pa.Table:
    generator = np.random.default_rng(0)
    rows = [generator.integers(1, 97, generator.integers(3, 40)).tolist() for _ in range(30)]
    labels = [[-100] * (len(row) // 2) + row[len(row) // 2 :] for row in rows]
    ids = pa.list_(pa.int32())
    return pa.table({"input_ids": pa.array(rows, ids), "labels": pa.array(labels, ids)})


def loss_and_gradient(model: LlamaForCausalLM, data: CausalDataset, rows_at_once: int) -> tuple[float, torch.Tensor]:
    """Loss summed over all tokens with labels, and its gradient in the first layer."""
    model.zero_grad()
    total = torch.zeros(())
    collate = CausalCollator(pad_token_id=0)
    for start in range(0, len(data), rows_at_once):
        batch = collate([data[row] for row in range(start, min(start + rows_at_once, len(data)))])
        total = total + model(**batch, num_items_in_batch=torch.tensor(1.0)).loss
    total.backward()
    gradient = model.model.layers[0].self_attn.q_proj.weight.grad
    assert gradient is not None
    return float(total.detach()), gradient.clone()


@pytest.mark.parametrize("rows_at_once", [1, 4])
def test_packing_changes_neither_loss_nor_gradient(
    model: LlamaForCausalLM, conversations: pa.Table, rows_at_once: int
) -> None:
    alone = CausalDataset(conversations, None)
    packed = CausalDataset(conversations, ROW_LENGTH)
    assert len(packed) < len(alone) / 2
    expected_loss, expected_gradient = loss_and_gradient(model, alone, 1)
    loss, gradient = loss_and_gradient(model, packed, rows_at_once)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)
