"""Tiny teachers, and jobs whose models learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.trainer.tiny_models import LABELS, STRONG_INIT, make_tokenizer, tiny_llama


def save_classifier(
    directory: Path, labels: Sequence[str] = LABELS, *, seed: int = 11, dropout: float = 0.0, **settings: Any
) -> Path:
    """A BERT with a head for ``labels``, random weights and its tokenizer; returns ``directory``."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = BertConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "initializer_range": STRONG_INIT,
            "max_position_embeddings": 64,
            "pad_token_id": tokenizer.pad_token_id,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            **settings,
        }
    )
    BertForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_generator(directory: Path, *, seed: int = 12, **settings: Any) -> Path:
    """A Llama with random weights and its tokenizer; returns ``directory``."""
    tokenizer = make_tokenizer()
    model = tiny_llama(tokenizer, seed=seed, **{"initializer_range": STRONG_INIT, **settings})
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def taught_by(directory: Path, **settings: Any) -> dict[str, Any]:
    """``spec.distillation`` with the teacher in ``directory``."""
    return {"teacher": {"uri": directory.as_uri()}, **settings}
