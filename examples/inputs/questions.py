"""Questions about the names of countries, languages and currencies, as articles of SQuAD 2.0.

A context tells what a thing is called in some languages, and a question asks for one of them, or for one that the
context does not have. The names come from Unicode CLDR through Babel, without a download.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from babel import Locale

from inputs.names import LANGUAGES, Name, is_held_out, read_names

SENTENCES = (
    "In {language} it is called {name}.",
    "Its {language} name is {name}.",
)
QUESTIONS = ("What is {thing} called in {language}?",)
LEAST, MOST = 2, 3
"""Languages of a context."""
QUESTIONS_A_CONTEXT = 2
UNANSWERED = 0.25
"""Share of the questions that ask for a language that the context does not have."""


def articles() -> Iterator[dict[str, Any]]:
    """An article with one paragraph for each thing, in an order that does not depend on the version of CLDR."""
    english = Locale("en")
    names: dict[str, dict[str, Name]] = defaultdict(dict)
    for name in read_names():
        names[name.thing][name.language] = name
    for thing in sorted(names):
        kind, _, code = thing.partition("/")
        title = getattr(english, kind).get(code)
        if title and len(names[thing]) == len(LANGUAGES):
            yield _article(thing, title, names[thing])


def split(found: Iterable[dict[str, Any]], train: int, test: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """At most ``train`` and ``test`` articles, at random. No thing is in both."""
    sides: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for article in found:
        sides[is_held_out(article["title"])].append(article)
    for side in sides.values():
        random.Random(0).shuffle(side)
    return sides[False][:train], sides[True][:test]


def _article(thing: str, title: str, names: dict[str, Name]) -> dict[str, Any]:
    draw = random.Random(thing)
    told = draw.sample(sorted(names), draw.randint(LEAST, MOST))
    context = f"{title} has a name in every language."
    starts = {}
    for language in told:
        before, _, after = draw.choice(SENTENCES).format(language=language, name="\0").partition("\0")
        starts[language] = len(context) + 1 + len(before)
        context += f" {before}{names[language].text}{after}"
    asked = draw.sample(told, QUESTIONS_A_CONTEXT)
    others = sorted(set(names) - set(told))
    questions = []
    for number, language in enumerate(asked):
        impossible = draw.random() < UNANSWERED
        chosen = draw.choice(others) if impossible else language
        answer = {"text": names[chosen].text, "answer_start": starts.get(chosen)}
        questions.append(
            {
                "id": f"{thing}/{number}",
                "question": draw.choice(QUESTIONS).format(thing=title, language=chosen),
                "answers": [] if impossible else [answer],
                "is_impossible": impossible,
            }
        )
    return {"title": thing, "paragraphs": [{"context": context, "qas": questions}]}
