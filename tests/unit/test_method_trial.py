"""The note on a base model of which few weights are rounded."""

from __future__ import annotations

from finetune_api.spec import Quantization
from finetune_trainer.prepare.method_trial import small_shares


def test_a_model_of_experts_saves_little() -> None:
    (note,) = small_shares(Quantization.NF4, 12_000, 100_000)
    assert note.startswith("model.quantization NF4 saves little memory: 12.0 % of the parameters")
    assert not list(small_shares(Quantization.NF4, 90_000, 100_000))
