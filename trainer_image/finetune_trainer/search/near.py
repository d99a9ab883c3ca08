"""Near-duplicates: an example in a prompt must not be nearly a row that the prompt is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rapidfuzz import fuzz, process

SIMILAR = 90.0
"""Texts are nearly equal from this normalised Indel similarity, in percent: 2 · common characters in order / characters
of both, after case and white space are made equal."""

Inputs = Mapping[str, str]


class NearRows:
    """Finds rows that are nearly the same as one of ``others``: each of their texts is."""

    def __init__(self, others: Sequence[Inputs]) -> None:
        self._others = [_normalised(inputs) for inputs in others]
        self._exact = set(self._others)
        self._first = [texts[0] for texts in self._others]

    def __call__(self, inputs: Inputs) -> bool:
        texts = _normalised(inputs)
        if texts in self._exact:
            return True
        found = process.extract_iter(texts[0], self._first, scorer=fuzz.ratio, score_cutoff=SIMILAR)
        return any(_similar(texts[1:], self._others[index][1:]) for _, _, index in found)


def _similar(texts: Sequence[str], others: Sequence[str]) -> bool:
    # With the cutoff, the score of texts of different length is 0 at once.
    return all(fuzz.ratio(one, other, score_cutoff=SIMILAR) for one, other in zip(texts, others, strict=True))


def _normalised(inputs: Inputs) -> tuple[str, ...]:
    return tuple(" ".join(text.casefold().split()) for text in inputs.values())
