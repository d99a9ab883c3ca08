"""Each warning that pyproject.toml ignores still occurs; otherwise its filter is obsolete."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification


def test_peft_uses_a_deprecated_attribute_of_transformers() -> None:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.warns(FutureWarning, match="`is_gradient_checkpointing` is deprecated"):
        get_peft_model(
            BertForSequenceClassification(config), LoraConfig(task_type="SEQ_CLS", target_modules="all-linear")
        )
