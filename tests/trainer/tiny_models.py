"""Tiny real models for each task, their tokenizer, and sentences with one key word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

LABELS = ("fruit", "metal", "weather")
WORDS = {
    "fruit": "apple pear plum cherry fig grape melon peach",
    "metal": "iron copper zinc lead silver gold nickel steel",
    "weather": "rain snow hail wind storm fog frost sun",
}
FILLER = "the a of in we saw some with and more today there"
SPECIAL = ["<pad>", "<unk>", "<end>", "<user>", "<bot>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user> {{ m['content'] }} {% else %}{{ m['content'] }} <end> "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<bot> {% endif %}"
)
STRONG_INIT = 0.15
"""Initial weights that are large enough for the features of the frozen model to separate the classes."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *FILLER.split(), *(word for group in WORDS.values() for word in group.split())]
    words += ["what", "is", "it", *LABELS]
    inner = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<bot>"],
        chat_template=TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_texts(count: int, seed: int) -> list[tuple[str, int]]:
    """Sentences of filler words with one key word, which determines the label."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        label = int(generator.integers(len(LABELS)))
        words = list(generator.choice(FILLER.split(), size=int(generator.integers(1, 6))))
        words.insert(int(generator.integers(len(words) + 1)), str(generator.choice(WORDS[LABELS[label]].split())))
        made.append((" ".join(words), label))
    return made


def save_bert(directory: Path, initializer_range: float = 0.02, pooler: bool = True) -> PreTrainedTokenizerFast:
    """A BERT of two layers with its tokenizer, which is returned."""
    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=initializer_range,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config, add_pooling_layer=pooler).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return tokenizer


def tiny_llama(tokenizer: PreTrainedTokenizerFast, *, seed: int = 4, **settings: Any) -> LlamaForCausalLM:
    """A Llama of two layers with the vocabulary and the special tokens of ``tokenizer``."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            **settings,
        }
    )
    return LlamaForCausalLM(config)


def save_llama(directory: Path, initializer_range: float = 0.02) -> PreTrainedTokenizerFast:
    """A Llama of two layers with its tokenizer, which is returned."""
    tokenizer = make_tokenizer()
    tiny_llama(tokenizer, initializer_range=initializer_range).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return tokenizer


def save_gpt2(directory: Path) -> Path:
    """A model whose linear layers store their weights transposed; returns ``directory``."""
    torch.manual_seed(5)
    config = GPT2Config(vocab_size=47, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=STRONG_INIT)
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


def save_mixtral(directory: Path, initializer_range: float = STRONG_INIT) -> Path:
    """A Mixtral of two layers with four experts, and its tokenizer; returns ``directory``."""
    tokenizer = make_tokenizer()
    torch.manual_seed(6)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        initializer_range=initializer_range,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    MixtralForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
