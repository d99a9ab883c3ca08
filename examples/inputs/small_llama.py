"""A small language model of Llama's architecture, trained in a minute or two on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inputs.pretraining import Log, Pace, bpe, import_torch, pretrain

PAD, END = "<|pad|>", "<|end|>"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a model, besides its texts. A different recipe gives a different model."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    context: int
    sequence: int
    batch: int
    steps: int
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    seed: int = 17
    version: int = 1
    """Increase it if a change of the code changes the model."""


def tokenizer_for(texts: list[str], recipe: Recipe, roles: list[str], chat_template: str | None = None) -> Any:
    """A tokenizer that is trained on ``texts``; ``roles`` are the special tokens of the chat template."""
    from transformers import PreTrainedTokenizerFast

    chat = {"additional_special_tokens": roles, "chat_template": chat_template} if chat_template else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe(texts, recipe.vocabulary, [PAD, END, *roles]),
        eos_token=END,
        pad_token=PAD,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
        **chat,
    )


def make(into: Path, texts: list[str], tokenizer: Any, recipe: Recipe, log: Log) -> None:
    """Train a model on ``texts``, and write it and its tokenizer into a directory."""
    torch = import_torch()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.width,
            intermediate_size=recipe.feed_forward,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    stream = [token for ids in tokenizer([text + END for text in texts])["input_ids"] for token in ids]
    batches = windows(torch.tensor(stream), recipe.sequence, recipe.batch, recipe.seed)
    pretrain(model, batches, Pace(recipe.steps, recipe.muon_rate, recipe.adam_rate), log)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def windows(stream: Any, sequence: int, batch_size: int, seed: int) -> Iterator[dict[str, Any]]:
    """Infinite batches of windows of ``sequence`` tokens. Each epoch uses all windows once and shifts their
    boundaries.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    while True:
        start = int(torch.randint(sequence, (), generator=draw))
        count = (len(stream) - start) // sequence
        found = stream[start : start + count * sequence].view(count, sequence)
        order = torch.randperm(count, generator=draw)
        for batch in found[order[: count - count % batch_size]].split(batch_size):
            yield {"input_ids": batch, "labels": batch}
