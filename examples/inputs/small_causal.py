"""A small causal language model with its own tokenizer, trained in a minute or two on a CPU.

It is pre-trained on docstrings, and on dates, numbers and names in several languages, some of them as chat. This data
contains none of the chat example's questions, and no day or number from the example's test split.
"""

from __future__ import annotations

import hashlib
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
    """Everything that determines the model. A different recipe gives a different model."""

    vocabulary: int = 4096
    width: int = 192
    layers: int = 4
    heads: int = 3
    feed_forward: int = 512
    context: int = 1024
    sequence: int = 256
    batch: int = 6
    steps: int = 420
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    seed: int = 17
    version: int = 2
    """Increase it if a change of the code below changes the model."""

    def digest(self, texts: list[str]) -> str:
        """Twelve hex digits that identify the recipe and the training texts."""
        content = json.dumps([asdict(self), texts])
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def cached_model(texts: list[str], recipe: Recipe, log: Callable[[str], None]) -> Path:
    """The directory of the model, which is trained unless an earlier run has cached it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator" / "models"
    final = cache / f"small-causal-{recipe.digest(texts)}"
    if (final / "model.safetensors").exists():
        log(f"Found the small model in {final}")
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        made = Path(scratch) / "model"
        _make(made, texts, recipe, log)
        shutil.rmtree(final, ignore_errors=True)
        made.rename(final)
    return final


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


def _make(into: Path, texts: list[str], recipe: Recipe, log: Callable[[str], None]) -> None:
    # Spinning threads make training four times slower on a busy machine. torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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
    log(
        f"Trained a tokenizer of {len(tokenizer)} tokens; training a model of {parameters / 1e6:.1f} million parameters"
    )
    stream = [token for ids in tokenizer([text + END for text in texts])["input_ids"] for token in ids]
    _pretrain(model, torch.tensor(stream), recipe, log)
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


def _pretrain(model: Any, stream: Any, recipe: Recipe, log: Callable[[str], None]) -> None:
    """Next-token training on windows of ``stream``, with Muon for the hidden matrices and AdamW for the rest.

    Batches are small: early in training, more steps help more than less noisy gradients.
    """
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
    began = time.monotonic()
    for step, batch in zip(range(recipe.steps), _batches(stream, recipe), strict=False):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step % 50 == 49 or step == 0:
            log(f"step {step + 1}/{recipe.steps}, loss {loss.item():.2f}, {time.monotonic() - began:.0f} s")


def _batches(stream: Any, recipe: Recipe) -> Iterator[Any]:
    """Infinite batches of windows. Each epoch uses all windows once and shifts their boundaries."""
    import torch

    draw = torch.Generator().manual_seed(recipe.seed)
    while True:
        start = int(torch.randint(recipe.sequence, (), generator=draw))
        count = (len(stream) - start) // recipe.sequence
        windows = stream[start : start + count * recipe.sequence].view(count, recipe.sequence)
        order = torch.randperm(count, generator=draw)
        yield from windows[order[: count - count % recipe.batch]].split(recipe.batch)
