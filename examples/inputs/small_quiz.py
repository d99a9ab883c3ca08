"""A small causal language model without a chat template, trained in a minute or two on a CPU.

It has read names with their language, in quizzes of one to six questions. Most quizzes are worded in one way, few in
two others, so that the model answers some wordings better than others. It has read none of the example's names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inputs import pretraining
from inputs.names import Name
from inputs.pretraining import Log, Pace, bpe, import_torch, pretrain
from inputs.small_causal import windows

PAD, END = "<|pad|>", "<|end|>"
WORDINGS = {"{name}: which language?": 8, "The language of {name} is": 1, "Name: {name}": 1}
"""How questions are worded, and how often. The answer follows after an empty line."""
_LONGEST_QUIZ = 6


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the model. A different recipe gives a different model."""

    vocabulary: int = 1024
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 384
    context: int = 512
    sequence: int = 160
    batch: int = 12
    steps: int = 300
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    seed: int = 17
    version: int = 1
    """Increase it if a change of the code below changes the model."""


def cached_model(names: Sequence[Name], recipe: Recipe, log: Log) -> Path:
    """The directory of the model, which is trained unless an earlier run has cached it."""
    texts = list(quizzes(names, 24 * len(names), recipe.seed))
    return pretraining.cached_model(
        "small-quiz", [asdict(recipe), texts], lambda into: _make(into, texts, recipe, log), log
    )


def quizzes(names: Sequence[Name], questions: int, seed: int) -> Iterator[str]:
    """Quizzes with about ``questions`` questions in all, each quiz in one wording."""
    draw = random.Random(seed)
    while questions > 0:
        wording = draw.choices(list(WORDINGS), list(WORDINGS.values()))[0]
        asked = draw.sample(list(names), draw.randint(1, _LONGEST_QUIZ))
        questions -= len(asked)
        yield "\n\n".join(f"{wording.format(name=one.text)}\n\n{one.language}" for one in asked)


def _make(into: Path, texts: list[str], recipe: Recipe, log: Log) -> None:
    torch = import_torch()
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(recipe.seed)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=bpe(texts, recipe.vocabulary, [PAD, END]),
        eos_token=END,
        pad_token=PAD,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )
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
