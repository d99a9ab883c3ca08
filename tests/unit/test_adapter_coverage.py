"""What an adapter changes, in numbers."""

from __future__ import annotations

import pytest

from finetune_trainer.methods.coverage import Coverage, Weight, measure


def test_layers_of_one_kind_are_counted_together_and_small_leftovers_are_not_named() -> None:
    coverage = measure(
        [
            Weight("model.embed_tokens.weight", 100, False),
            *(Weight(f"model.layers.{layer}.self_attn.q_proj.weight", 100, True) for layer in range(2)),
            *(Weight(f"model.layers.{layer}.self_attn.q_proj.bias", 10, True) for layer in range(2)),
            *(Weight(f"model.layers.{layer}.mlp.experts.gate_up_proj", 300, False) for layer in range(2)),
            Weight("model.norm.weight", 1, False),
        ]
    )
    assert coverage.modules == {"q_proj": 2}
    assert coverage.share == pytest.approx(220 / 921)
    assert list(coverage.left_out) == ["experts.gate_up_proj", "embed_tokens"]
    assert coverage.changed == "23.9 %: 2 q_proj"
    assert coverage.unchanged == "experts.gate_up_proj 65.1 %, embed_tokens 10.9 %"
    assert Coverage.of(coverage.summary).changed == coverage.changed
