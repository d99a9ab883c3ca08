"""A small causal language model with its own tokenizer, made in a minute or two on a CPU.

It has read docstrings, and dates, numbers and names as the world's languages write them, and it knows what a chat looks
like; it was never asked the questions of the chat example.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

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
    """All that decides the model; another recipe is another model."""

    vocabulary: int = 4096
    width: int = 256
    layers: int = 4
    heads: int = 4
    feed_forward: int = 704
    context: int = 1024
    sequence: int = 256
    batch: int = 12
    steps: int = 250
    muon_rate: float = 0.01
    adam_rate: float = 2e-3
    seed: int = 17

    @property
    def digest(self) -> str:
        """Twelve hex digits of the recipe and of the code that follows it."""
        text = json.dumps(asdict(self), sort_keys=True) + inspect.getsource(inspect.getmodule(Recipe))  # type: ignore[arg-type]
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def cached_model(texts: list[str], recipe: Recipe, say: Callable[[str], None]) -> Path:
    """The directory of the model, made now if no earlier run has made it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator" / "models"
    final = cache / f"small-causal-{recipe.digest}"
    if (final / "model.safetensors").exists():
        say(f"Found the small model in {final}")
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        made = Path(scratch) / "model"
        _make(made, texts, recipe, say)
        shutil.rmtree(final, ignore_errors=True)
        made.rename(final)
    return final


def reading(docstrings: list[str], seed: int = 17) -> list[str]:
    """What the model reads: half docstrings, half lines of dates, numbers and names; a tenth of it as chat."""
    draw = random.Random(seed)
    texts = []
    for text in docstrings:
        opening, _, rest = text.partition(". ")
        chat = rest and draw.random() < 0.2
        texts.append(f"{USER}{rest[:300]}{END}{ASSISTANT}{opening}." if chat else text)
    texts += [" ".join(line.split()) for line in _lines(draw, 2 * len(docstrings))]
    draw.shuffle(texts)
    return texts


def _lines(draw: random.Random, count: int) -> Iterator[str]:
    """Facts in plain words, one to a line: the material of the chat example, though not its questions."""
    from babel import Locale
    from babel.dates import format_date
    from babel.numbers import format_currency, format_decimal

    from inputs.chat import CURRENCIES, DAYS, FIRST_DAY, LANGUAGES, is_held_out

    names = [(Locale(code), language) for code, language in LANGUAGES.items()]
    english = Locale("en")
    for _ in range(count):
        locale, language = draw.choice(names)
        kind = draw.randrange(3)
        if kind == 0:
            number = draw.randrange(DAYS)
            if not is_held_out(number):
                day = FIRST_DAY + timedelta(days=number)
                form = draw.choice(("long", "medium", "short"))
                yield f"{language} {form}: {format_date(day, form, locale=locale)} = {day.isoformat()}"
        elif kind == 1:
            figure = draw.randrange(1, 10 ** draw.randint(2, 7))
            if not is_held_out(figure):
                code, name = draw.choice(list(CURRENCIES.items()))
                yield (
                    f"{language}: {format_currency(figure / 100, code, locale=locale)} = {figure / 100:.2f} {name}"
                    if draw.random() < 0.5
                    else f"{language}: {format_decimal(figure / 10, locale=locale)} = {figure / 10:.1f}"
                )
        else:
            table, own = draw.choice(((english.territories, locale.territories), (english.languages, locale.languages)))
            key = draw.choice(sorted(set(table) & set(own)))
            yield f"{language}: {own[key]} = {table[key]}"


def _make(into: Path, texts: list[str], recipe: Recipe, say: Callable[[str], None]) -> None:
    import torch
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
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"Made a tokenizer of {len(tokenizer)} tokens; training a model of {parameters / 1e6:.1f} million parameters")
    stream = [token for ids in tokenizer([text + END for text in texts])["input_ids"] for token in ids]
    _pretrain(model, torch.tensor(stream), recipe, say)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _tokenizer(texts: list[str], recipe: Recipe) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=recipe.context,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _pretrain(model: Any, stream: Any, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Next-token training on windows of ``stream``: Muon for the matrices inside, AdamW for the rest."""
    import torch

    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(inside, lr=recipe.muon_rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]

    def pace(step: int) -> float:
        return min((step + 1) / 20, 1.0, 1.5 * (1 - step / recipe.steps) + 0.02)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, pace) for optimizer in optimizers]
    draw = torch.Generator().manual_seed(recipe.seed)
    began = time.monotonic()
    for step in range(recipe.steps):
        starts = torch.randint(len(stream) - recipe.sequence, (recipe.batch,), generator=draw)
        batch = torch.stack([stream[start : start + recipe.sequence] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step % 50 == 49 or step == 0:
            say(f"step {step + 1}/{recipe.steps}, loss {loss.item():.2f}, {time.monotonic() - began:.0f} s")
