"""Settings of generation, on models of transformers and on those with an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from finetune_trainer.evaluate.decoding import decoding
from tests.trainer.pair_models import save_t5
from tests.trainer.tiny_models import save_llama


@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "adapter"])
@pytest.mark.parametrize("kind", ["CAUSAL_LM", "SEQ_2_SEQ_LM"])
def test_replace_those_of_the_model(tmp_path: Path, kind: str, adapter: bool) -> None:
    seq2seq = kind == "SEQ_2_SEQ_LM"
    auto_class: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    save_t5(tmp_path, ["it rains today"]) if seq2seq else save_llama(tmp_path)
    model = auto_class.from_pretrained(tmp_path).eval()
    model.generation_config = GenerationConfig(max_new_tokens=3, min_new_tokens=3, decoder_start_token_id=0)
    if adapter:
        names = ["q", "v"] if seq2seq else ["q_proj", "v_proj"]
        model = get_peft_model(model, LoraConfig(task_type=kind, target_modules=names))
    config = GenerationConfig(max_new_tokens=5, min_new_tokens=5, decoder_start_token_id=0, pad_token_id=0)

    def new_tokens() -> int:
        given = torch.tensor([[3, 4]])
        before = 1 if seq2seq else given.shape[1]
        return model.generate(input_ids=given, attention_mask=torch.ones_like(given)).shape[1] - before

    with decoding(model, config):
        assert new_tokens() == 5
    assert new_tokens() == 3
