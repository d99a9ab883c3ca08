"""A small causal language model with its own tokenizer, trained in a minute or two on a CPU.

It is pre-trained on docstrings, and on dates, numbers and names in several languages, some of them as chat. This data
contains none of the chat example's questions, and no day or number from the example's test split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from inputs import pretraining
from inputs.pretraining import Log, Pace, bpe, import_torch, pretrain

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the model. A different recipe gives a different model."""

    vocabulary: int = 4096
    width: int = 192
    layers: int = 4
    heads: int = 3
    feed_forward: int = 512
    context: int = 1024
    sequence: int = 256
    batch: int = 6
    steps: int = 220
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    seed: int = 17
    version: int = 3
    """Increase it if a change of the code below changes the model."""


def cached_model(texts: list[str], recipe: Recipe, log: Log) -> Path:
    """The directory of the model, which is trained unless an earlier run has cached it."""
    return pretraining.cached_model(
        "small-causal", [asdict(recipe), texts], lambda into: _make(into, texts, recipe, log), log
    )


@dataclass(frozen=True)
class Fact:
    """Something in the notation of a language, and in a language-neutral form."""

    language: str
    written: str
    plain: str


def reading(docstrings: list[str], seed: int = 17) -> list[str]:
    """The training texts: docstrings, and facts as plain lines or, less often, as a question with its answer."""
    draw = random.Random(seed)
    texts = list(docstrings)
    for fact in _facts(draw, 3 * len(docstrings)):
        written = " ".join(fact.written.split())
        line, reverse = f"{fact.language}: {written} = {fact.plain}", f"{fact.plain} is {written} in {fact.language}"
        question = f"{USER}{fact.plain}, {fact.language}?{END}{ASSISTANT}{written}"
        texts.append(draw.choices((line, reverse, question), (3, 3, 1))[0])
    draw.shuffle(texts)
    return texts


def _facts(draw: random.Random, count: int) -> Iterator[Fact]:
    """Dates, numbers, amounts and names, the subjects of the chat example, without those of its test split."""
    from babel import Locale
    from babel.dates import format_date
    from babel.numbers import format_currency, format_decimal

    from inputs.chat import COUNTRIES, CURRENCIES, DAYS, FIRST_DAY, LANGUAGES, is_held_out

    names, figures = Locale("en").territories, 10_000_000
    for _ in range(count):
        locale, language = draw.choice(list(LANGUAGES.items()))
        match draw.choice(("date", "date", "amount", "number", "country")):
            case "date" if not is_held_out(number := draw.randrange(DAYS)):
                day, form = FIRST_DAY + timedelta(days=number), draw.choice(("long", "medium", "short"))
                yield Fact(language, format_date(day, form, locale=locale), f"{form} {day.isoformat()}")
            case "amount" if not is_held_out(figure := draw.randrange(1, figures)):
                code, name = draw.choice(list(CURRENCIES.items()))
                yield Fact(language, format_currency(figure / 100, code, locale=locale), f"{figure / 100:.2f} {name}")
            case "number" if not is_held_out(figure := draw.randrange(1, figures)):
                yield Fact(language, format_decimal(figure / 10, locale=locale), f"{figure / 10:.1f}")
            case "country":
                code = draw.choice(COUNTRIES)
                yield Fact(language, Locale(locale).territories[code], names[code])


def _make(into: Path, texts: list[str], recipe: Recipe, log: Log) -> None:
    torch = import_torch()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    tokenizer = _tokenizer(texts, recipe)
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


def _tokenizer(texts: list[str], recipe: Recipe) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=bpe(texts, recipe.vocabulary, [PAD, END, SYSTEM, USER, ASSISTANT]),
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=recipe.context,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


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
