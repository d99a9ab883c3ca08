"""Warnings of libraries about each other that pyproject.toml lets pass: as long as they come."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification


def test_peft_asks_transformers_by_the_old_name() -> None:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.warns(FutureWarning, match="`is_gradient_checkpointing` is deprecated"):
        get_peft_model(
            BertForSequenceClassification(config), LoraConfig(task_type="SEQ_CLS", target_modules="all-linear")
        )
