"""The data of the translation example: dates, amounts, measures, times and lists of names, in English and in German.

They come from Unicode CLDR through Babel, without a download. A phrase combines a few parts, such as a day of the week,
a day, a month and a year. The combinations of the test split do not occur in training, but their parts do.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from babel import Locale
from babel.dates import format_date, format_timedelta
from babel.lists import format_list
from babel.numbers import format_currency
from babel.units import format_unit

SOURCE, TARGET = "en", "de"
_CODES = {
    "territories": "AR AT AU BE BG BR CA CH CL CN CO CZ DE DK EE EG ES FI FR GB GR HR HU IE IL IN IS IT JP KE KR LT LU "
    "LV MA MX NL NO NZ PE PL PT RO RS RU SE SI SK TR UA US ZA",
    "languages": "ar bg cs da de el en es fi fr hi hr hu it ja ko nl no pl pt ro ru sv tr uk zh",
    "currencies": "AUD BRL CAD CHF CZK DKK EUR GBP INR JPY NOK PLN SEK USD",
    "units": "area-hectare area-square-kilometer area-square-meter duration-century energy-kilowatt-hour "
    "length-centimeter length-kilometer length-light-year length-meter mass-gram mass-kilogram mass-tonne "
    "power-megawatt speed-kilometer-per-hour speed-meter-per-second temperature-celsius volume-cubic-meter "
    "volume-liter",
}
TERRITORIES, LANGUAGES, CURRENCIES, UNITS = (codes.split() for codes in _CODES.values())
SECONDS = {"minute": 60, "hour": 3600, "day": 86_400, "week": 604_800, "year": 31_536_000}
FIRST_DAY, DAYS = date(1900, 1, 1), 54_787
HELD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class Phrase:
    """A phrase in English and in German."""

    source: str
    target: str


def phrases(count: int, for_test: bool, seed: int = 17) -> Iterator[Phrase]:
    """``count`` different phrases of one split whose German differs from the English."""
    draw = random.Random(f"{seed}-{for_test}")
    seen: set[str] = set()
    while len(seen) < count:
        phrase = _phrase(draw)
        if is_held_out(phrase.source) == for_test and phrase.source not in seen and phrase.source != phrase.target:
            seen.add(phrase.source)
            yield phrase


def is_held_out(source: str) -> bool:
    """Whether the phrase with this English text belongs to test."""
    return int(hashlib.sha256(source.encode()).hexdigest()[:8], 16) < HELD_OUT_SHARE * 16**8


def _phrase(draw: random.Random) -> Phrase:
    kind = draw.choice((_day, _day, _measure, _amount, _time, _locale, _list))
    state = draw.getstate()
    source = kind(draw, SOURCE)
    draw.setstate(state)  # the same phrase in the other language
    return Phrase(" ".join(source.split()), " ".join(kind(draw, TARGET).split()))


def _day(draw: random.Random, language: str) -> str:
    day = FIRST_DAY + timedelta(days=draw.randrange(DAYS))
    return format_date(day, "full", locale=language)


def _measure(draw: random.Random, language: str) -> str:
    unit, value = draw.choice(UNITS), draw.randrange(2, 10_000) / draw.choice((1, 1, 10))
    return format_unit(value, unit, length="long", locale=language)


def _amount(draw: random.Random, language: str) -> str:
    currency, value = draw.choice(CURRENCIES), draw.randrange(200, 10_000_000) / 100
    return format_currency(value, currency, locale=language, format_type="name")


def _time(draw: random.Random, language: str) -> str:
    unit, sign = draw.choice(list(SECONDS)), draw.choice((-1, 1))
    delta = timedelta(seconds=sign * SECONDS[unit] * draw.randrange(2, 100))
    return format_timedelta(delta, granularity=unit, threshold=10**6, add_direction=True, locale=language)


def _locale(draw: random.Random, language: str) -> str:
    names = Locale(language)
    return f"{names.languages[draw.choice(LANGUAGES)]} ({names.territories[draw.choice(TERRITORIES)]})"


def _list(draw: random.Random, language: str) -> str:
    codes = draw.sample(TERRITORIES, draw.choice((2, 3, 4)))
    return format_list([Locale(language).territories[code] for code in codes], locale=language)
