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

from inputs import pretraining
from inputs.pretraining import Log
from inputs.small_llama import END, Recipe, make, tokenizer_for

SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


RECIPE = Recipe(
    vocabulary=4096,
    width=192,
    layers=4,
    heads=3,
    feed_forward=512,
    context=1024,
    sequence=256,
    batch=6,
    steps=220,
    version=3,
)


def cached_model(texts: list[str], recipe: Recipe, log: Log) -> Path:
    """The directory of the model, which is trained unless an earlier run has cached it."""

    def train(into: Path) -> None:
        tokenizer = tokenizer_for(texts, recipe, [SYSTEM, USER, ASSISTANT], CHAT_TEMPLATE)
        make(into, texts, tokenizer, recipe, log)

    return pretraining.cached_model("small-causal", [asdict(recipe), texts], train, log)


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
