"""Questions about countries and territories, as articles of SQuAD 2.0.

A context tells some facts about a territory: its currency, its official language, its code, and its German name. A
question asks for one of them, or for one that the context does not have. The facts come
from Unicode CLDR through Babel, without a download.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from babel import Locale
from babel.languages import get_official_languages
from babel.numbers import get_territory_currencies

from inputs.names import is_held_out

FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "currency": (
        ("People pay with the {answer}.", "The currency is the {answer}.", "Prices are given in the {answer}."),
        ("What is the currency of {territory}?", "How do people pay in {territory}?"),
    ),
    "language": (
        ("The official language is {answer}.", "Laws are written in {answer}.", "Officials speak {answer}."),
        ("What is the official language of {territory}?", "Which language do officials speak in {territory}?"),
    ),
    "code": (
        ("Its code is {answer}.", "It is abbreviated as {answer}.", "Forms have the code {answer} for it."),
        ("What is the code of {territory}?", "How is {territory} abbreviated?"),
    ),
    "german": (
        ("Germans call it {answer}.", "Its German name is {answer}.", "In German it is {answer}."),
        ("What is {territory} called in German?", "What is the German name of {territory}?"),
    ),
}
"""Sentences of the context, and questions, by fact."""
TOLD, ASKED = 3, 3
"""Facts in a context, and facts that are asked for."""


def articles() -> Iterator[dict[str, Any]]:
    """An article for each territory of which all facts are known."""
    english, german = Locale("en"), Locale("de")
    for code, territory in sorted(english.territories.items()):
        currencies, languages = get_territory_currencies(code), get_official_languages(code)
        if not (code.isalpha() and len(code) == 2 and currencies and languages):
            continue
        yield _article(
            territory,
            {
                "currency": english.currencies.get(currencies[-1], currencies[-1]),
                "language": english.languages.get(languages[0], languages[0]),
                "code": code,
                "german": german.territories[code],
            },
        )


def split(found: Iterable[dict[str, Any]], train: int, test: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """At most ``train`` and ``test`` articles, at random. No territory is in both."""
    sides: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for article in found:
        sides[is_held_out(article["title"])].append(article)
    for side in sides.values():
        random.Random(0).shuffle(side)
    return sides[False][:train], sides[True][:test]


def _article(territory: str, facts: dict[str, str]) -> dict[str, Any]:
    draw = random.Random(territory)
    told = draw.sample(sorted(facts), TOLD)
    context = f"This is about {territory}."
    answers = {}
    for fact in told:
        before, _, after = draw.choice(FACTS[fact][0]).partition("{answer}")
        answers[fact] = {"text": facts[fact], "answer_start": len(context) + 1 + len(before)}
        context += f" {before}{facts[fact]}{after}"
    questions = [
        {
            "id": f"{territory}/{fact}",
            "question": draw.choice(FACTS[fact][1]).format(territory=territory),
            "answers": [answers[fact]] if fact in told else [],
            "is_impossible": fact not in told,
        }
        for fact in draw.sample(sorted(facts), ASKED)
    ]
    return {"title": territory, "paragraphs": [{"context": context, "qas": questions}]}
