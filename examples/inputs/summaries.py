"""The data of the summarization example: docstrings of Python's standard library, without their first sentence.

The first sentence of a docstring is its summary (PEP 257). The text is the signature and the other sentences. A text
that still contains the summary is left out, so that nothing can be copied whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from inputs.docstrings import Docstring, shortened

MIN_SUMMARY_WORDS, MAX_SUMMARY_WORDS = 4, 20
MIN_TEXT_WORDS = 8
MAX_CHARACTERS = 240
_SENTENCES = re.compile(r"(.+?[.!?])\s+([A-Z\"'`(<*].+)")


@dataclass(frozen=True, order=True)
class Summarized:
    """The text of a docstring and its summary. ``prose`` is the whole docstring, which is used to find duplicates."""

    prose: str
    text: str
    summary: str


def clean(docstrings: Iterable[Docstring]) -> list[Summarized]:
    """The docstrings of several sentences, without duplicate summaries, which are those of overridden methods."""
    found: dict[str, Summarized] = {}
    for docstring in docstrings:
        prose = " ".join(docstring.text.split())
        sentences = _SENTENCES.match(prose)
        if not (docstring.signature and sentences):
            continue
        summary, rest = sentences[1], sentences[2]
        fits = MIN_SUMMARY_WORDS <= len(summary.split()) <= MAX_SUMMARY_WORDS and len(rest.split()) >= MIN_TEXT_WORDS
        if fits and summary.rstrip(".").casefold() not in rest.casefold():
            text = f"{docstring.signature}: {rest}"
            found.setdefault(summary.casefold(), Summarized(prose, shortened(text, MAX_CHARACTERS), summary))
    return list(found.values())
