"""The data of the chat example: conversations about how languages write dates, numbers and names.

The questions are generated. The answers come from Unicode CLDR through Babel. In a third of the conversations, only the
system message states the language, so the model must keep to it over several turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import date, timedelta

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal

Message = dict[str, str]
Conversation = dict[str, list[Message]]

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "nl": "Dutch"}
CURRENCIES = {"EUR": "euros", "USD": "US dollars", "GBP": "pounds", "CHF": "Swiss francs", "JPY": "yen"}
HELD_OUT_SHARE = 0.15
FIRST_DAY, DAYS = date(1950, 1, 1), 36_525
COUNTRIES = sorted(
    code
    for code in set.intersection(*(set(Locale(language).territories) for language in LANGUAGES))
    if len(code) == 2 and code.isalpha()
)
_BRIEF = (
    "Write everything for readers of {language}.",
    "You answer in {language}. Give the answer alone, with no explanation.",
    "You are a translator's assistant. The texts are in {language}; use its names and its way to write dates and "
    "numbers.",
)


class Questions:
    """Draws questions with their answers. Each subject occurs either in train or in test."""

    def __init__(self, draw: random.Random, for_test: bool) -> None:
        self._draw = draw
        self._for_test = for_test
        self._kinds: tuple[Callable[[str], tuple[str, str]], ...] = (
            self._date, self._date, self._amount, self._number, self._month, self._country
        )  # fmt: skip

    def ask(self, language: str) -> tuple[str, str]:
        """A question, without its language, and the answer in ``language``."""
        question, answer = self._draw.choice(self._kinds)(language)
        return question, " ".join(answer.split())  # CLDR uses several kinds of spaces

    def _day(self) -> date:
        """A day of this split. No day occurs in both splits."""
        while True:
            number = self._draw.randrange(DAYS)
            if is_held_out(number) == self._for_test:
                return FIRST_DAY + timedelta(days=number)

    def _figure(self, below: int) -> int:
        while True:
            figure = self._draw.randrange(1, 10 ** self._draw.randint(2, len(str(below)) - 1))
            if is_held_out(figure) == self._for_test:
                return figure

    def _date(self, language: str) -> tuple[str, str]:
        day = self._day()
        form = self._draw.choice(("long", "medium", "short"))
        return f"Write the date {day.isoformat()} in {form} form.", format_date(day, form, locale=language)

    def _month(self, language: str) -> tuple[str, str]:
        day = self._day()
        return f"Name the month of {day.isoformat()}.", format_date(day, "LLLL", locale=language)

    def _amount(self, language: str) -> tuple[str, str]:
        code, name = self._draw.choice(list(CURRENCIES.items()))
        amount = self._figure(10_000_000) / 100
        return f"Write {amount:.2f} {name}.", format_currency(amount, code, locale=language)

    def _number(self, language: str) -> tuple[str, str]:
        number = self._figure(100_000_000) / 10
        return f"Write the number {number:.1f}.", format_decimal(number, locale=language)

    def _country(self, language: str) -> tuple[str, str]:
        names, own = Locale("en").territories, Locale(language).territories
        while True:
            code = self._draw.choice(COUNTRIES)
            if is_held_out(int(code, 36)) == self._for_test:
                return f"Name the country {names[code]}.", own[code]


def is_held_out(number: int) -> bool:
    """Whether questions about this day, number or country belong to test."""
    return random.Random(number).random() < HELD_OUT_SHARE


def conversations(count: int, for_test: bool, seed: int = 17) -> Iterator[Conversation]:
    """``count`` different conversations of one to eight turns."""
    draw = random.Random(f"{seed}-{for_test}")
    questions = Questions(draw, for_test)
    seen: set[str] = set()
    while len(seen) < count:
        conversation = _conversation(draw, questions)
        key = str(conversation)
        if key not in seen:
            seen.add(key)
            yield conversation


def _conversation(draw: random.Random, questions: Questions) -> Conversation:
    messages: list[Message] = []
    language = draw.choice(list(LANGUAGES))
    brief = draw.random() < 1 / 3
    if brief:
        content = draw.choice(_BRIEF).format(language=LANGUAGES[language])
        messages.append({"role": "system", "content": content})
    for _ in range(draw.choice((1, 1, 1, 1, 2, 2, 3, 8))):
        if not brief:
            language = draw.choice(list(LANGUAGES))
        question, answer = questions.ask(language)
        if not brief:
            question = f"{question[:-1]} in {LANGUAGES[language]}."
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}
