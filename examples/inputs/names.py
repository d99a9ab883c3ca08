"""Names of countries, languages, scripts and currencies, labelled by the language of the name, or by all of them.

They come from Unicode CLDR through Babel, without a download.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from babel import Locale

LANGUAGES = {
    "cs": "Czech",
    "de": "German",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "hu": "Hungarian",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "sv": "Swedish",
    "tr": "Turkish",
}
KINDS = ("territories", "languages", "scripts", "currencies")
ROMANCE = ("French", "Italian", "Portuguese", "Spanish")
MIN_CHARACTERS = 8
MIN_SHARED_CHARACTERS = 5
TEST_SHARE = 0.15


@dataclass(frozen=True, order=True)
class Name:
    """The name of one thing in one language. ``thing`` is its code in CLDR."""

    text: str
    language: str
    thing: str


def read_names() -> Iterator[Name]:
    """All names in CLDR for the four kinds of things in each language."""
    for code, language in LANGUAGES.items():
        locale = Locale(code)
        for kind in KINDS:
            for thing, text in getattr(locale, kind).items():
                yield Name(text, language, f"{kind}/{thing}")


def clean(names: Iterable[Name]) -> list[Name]:
    """The names that identify a language, without duplicates, in an order that does not depend on the input order.

    Left out are short names, which are often the same in all languages, names that occur in several languages
    ("Venezuela"), and names with digits: former currencies, which differ from the current one only in the years.
    """
    of_text: dict[str, set[Name]] = defaultdict(set)
    for name in names:
        if len(name.text) >= MIN_CHARACTERS and not any(character.isdigit() for character in name.text):
            of_text[name.text.casefold()].add(name)
    distinct = [min(same) for same in of_text.values() if len({name.language for name in same}) == 1]
    return sorted(distinct, key=lambda name: _digest(f"{name.thing} {name.text}"))


def split(names: Iterable[Name], train: int, test: int) -> tuple[list[Name], list[Name]]:
    """At most ``train`` and ``test`` names, in order. No thing occurs in both splits, in whatever language."""
    sides: dict[bool, list[Name]] = {True: [], False: []}
    for name in names:
        sides[is_held_out(name.thing)].append(name)
    return sides[False][:train], sides[True][:test]


def mislabelled(names: Iterable[Name], share: float, seed: int = 17) -> list[Name]:
    """``names``, of which about a ``share`` have another language than theirs, as labels of hasty people do."""
    draw = random.Random(seed)
    languages = sorted(LANGUAGES.values())

    def label(name: Name) -> str:
        others = [language for language in languages if language != name.language]
        return draw.choice(others) if draw.random() < share else name.language

    return [replace(name, language=label(name)) for name in names]


@dataclass(frozen=True, order=True)
class SharedName:
    """A name with all languages that write it like this. ``things`` are the codes in CLDR of what it names."""

    text: str
    languages: tuple[str, ...]
    things: tuple[str, ...]


def shared(names: Iterable[Name]) -> list[SharedName]:
    """The names in the Romance languages, without duplicates, in an order that does not depend on the input order.

    Names with digits are left out as in `clean`.
    """
    of_text: dict[str, set[Name]] = defaultdict(set)
    for name in names:
        short = len(name.text) < MIN_SHARED_CHARACTERS
        if name.language in ROMANCE and not short and not any(character.isdigit() for character in name.text):
            of_text[name.text.casefold()].add(name)
    found = [
        SharedName(
            min(name.text for name in same),
            tuple(sorted({name.language for name in same})),
            tuple(sorted({name.thing for name in same})),
        )
        for same in of_text.values()
    ]
    return sorted(found, key=lambda name: _digest(f"{name.things} {name.text}"))


def split_shared(names: Iterable[SharedName], train: int, test: int) -> tuple[list[SharedName], list[SharedName]]:
    """At most ``train`` and ``test`` names, in order. No thing occurs in both splits."""
    sides: dict[bool, list[SharedName]] = {True: [], False: []}
    for name in names:
        held_out = {is_held_out(thing) for thing in name.things}
        if len(held_out) == 1:
            sides[held_out.pop()].append(name)
    return sides[False][:train], sides[True][:test]


def is_held_out(thing: str) -> bool:
    """Whether the names of this thing belong to test."""
    return int(_digest(thing)[:8], 16) < TEST_SHARE * 16**8


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
