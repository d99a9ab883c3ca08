"""A small model with an encoder and a decoder, of BART's architecture, trained in a minute or two on a CPU.

It is pre-trained as BART was: it restores texts some of whose spans are masked. The texts are docstrings, and phrases
in English and in German, each by itself. None of them occurs in the test split of an example.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from inputs import pretraining
from inputs.pretraining import Log, Pace, bpe, import_torch, pretrain

PAD, END, MASK = "<|pad|>", "<|end|>", "<|mask|>"
_IGNORED_LABEL = -100
_POOL = 16
"""Batches whose rows are sorted by length together."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the model. A different recipe gives a different model."""

    vocabulary: int = 3072
    width: int = 192
    layers: int = 2
    heads: int = 4
    feed_forward: int = 512
    context: int = 128
    sequence: int = 80
    masked: float = 0.25
    span: int = 2
    batch: int = 16
    steps: int = 400
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    seed: int = 17
    version: int = 2
    """Increase it if a change of the code below changes the model."""


def cached_model(texts: list[str], recipe: Recipe, log: Log) -> Path:
    """The directory of the model, which is trained unless an earlier run has cached it."""
    return pretraining.cached_model(
        "small-seq2seq", [asdict(recipe), texts], lambda into: _make(into, texts, recipe, log), log
    )


def reading(docstrings: Iterable[str], phrases: Iterable[tuple[str, str]], seed: int = 17) -> list[str]:
    """The training texts, in an order that tells nothing about which phrases belong together."""
    texts = [*docstrings, *chain.from_iterable(phrases)]
    random.Random(seed).shuffle(texts)
    return texts


def _make(into: Path, texts: list[str], recipe: Recipe, log: Log) -> None:
    torch = import_torch()
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(recipe.seed)
    tokenizer = _tokenizer(texts, recipe)
    end = tokenizer.eos_token_id
    sides = ("encoder", "decoder")
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=recipe.vocabulary,
            d_model=recipe.width,
            max_position_embeddings=recipe.context,
            **{f"{side}_layers": recipe.layers for side in sides},
            **{f"{side}_attention_heads": recipe.heads for side in sides},
            **{f"{side}_ffn_dim": recipe.feed_forward for side in sides},
            dropout=0.0,
            init_std=0.05,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=end,
            forced_eos_token_id=None,
        )
    )
    _place_by_waves(model)
    batches = _batches(_pieces(tokenizer(texts, verbose=False)["input_ids"], recipe), tokenizer, recipe)
    pretrain(model, batches, Pace(recipe.steps, recipe.muon_rate, recipe.adam_rate), log)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _place_by_waves(model: Any) -> None:
    """Start from sinusoidal positions in encoder and decoder, from which the model learns sooner to copy."""
    import torch

    for side in (model.model.encoder, model.model.decoder):
        weight = side.embed_positions.weight
        count, width = weight.shape
        rates = 10_000 ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(count)[:, None] * rates
        with torch.no_grad():
            weight.copy_(torch.cat([angles.sin(), angles.cos()], dim=1) * (2**0.5 * model.config.init_std))


def _pieces(rows: list[list[int]], recipe: Recipe) -> list[list[int]]:
    """``rows``, divided into pieces of at most ``recipe.sequence`` tokens."""
    return [row[start : start + recipe.sequence] for row in rows for start in range(0, len(row), recipe.sequence)]


def _tokenizer(texts: list[str], recipe: Recipe) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = bpe(texts, recipe.vocabulary, [PAD, END, MASK])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        mask_token=MASK,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def _batches(rows: list[list[int]], tokenizer: Any, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Infinite batches of masked texts and the texts to restore, each batch of similar lengths."""
    draw = random.Random(recipe.seed)
    rows = list(rows)
    while True:
        draw.shuffle(rows)
        for start in range(0, len(rows), _POOL * recipe.batch):
            pool = sorted(rows[start : start + _POOL * recipe.batch], key=len)
            batches = [pool[first : first + recipe.batch] for first in range(0, len(pool), recipe.batch)]
            draw.shuffle(batches)
            for targets in batches:
                sources = [masked(target, tokenizer.mask_token_id, recipe, draw) for target in targets]
                inputs = _padded(sources, tokenizer.pad_token_id)
                yield {
                    "input_ids": inputs,
                    "attention_mask": (inputs != tokenizer.pad_token_id).long(),
                    "labels": _padded(targets, _IGNORED_LABEL),
                }


def masked(tokens: list[int], mask: int, recipe: Recipe, draw: random.Random) -> list[int]:
    """``tokens`` with a share of about ``recipe.masked`` in spans, each replaced by one ``mask``; the last stays."""
    found: list[int] = []
    position, last = 0, len(tokens) - 1
    while position < last:
        if draw.random() < recipe.masked / recipe.span:
            found.append(mask)
            position = min(last, position + draw.randint(1, 2 * recipe.span - 1))
        else:
            found.append(tokens[position])
            position += 1
    return [*found, tokens[last]]


def _padded(rows: list[list[int]], fill: int) -> Any:
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
