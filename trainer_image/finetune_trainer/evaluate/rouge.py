"""ROUGE (Lin 2004): F1 of what an answer and its reference have in common; 0 to 1.

For English the values equal those of the ``rouge-score`` package without stemming, which supports only the letters a-z.
Words are as there, but in any script; in scripts without spaces each character is a word. If neither text has a word,
as in ``{}``, the value is 1 for equal texts and 0 for others.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial

import regex

_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
"""Scripts without spaces."""
# The standard library's \w has no vowel signs, as of Hindi or Thai, so that different words would be equal.
WORD = rf"[{_ALONE}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_ALONE}]]+"
"""A word; in a script without spaces, a character with its vowels and marks."""
_WORDS = regex.compile(WORD, regex.V1)


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L: from the longest common subsequence of words. Bit-parallel (Hyyrö 2004), so it is fast."""
    answered, expected = words(answer), words(reference)
    if not answered or not expected:
        return _without_words(answer, reference, answered, expected)
    return _f1(_longest_common_subsequence(answered, expected), len(answered), len(expected))


def rouge_n(answer: str, reference: str, length: int) -> float:
    """ROUGE-N: from the common sequences of ``length`` words."""
    answered, expected = words(answer), words(reference)
    if not answered or not expected:
        return _without_words(answer, reference, answered, expected)
    first, second = (Counter(zip(*(text[i:] for i in range(length)), strict=False)) for text in (answered, expected))
    if not first or not second:  # Texts of a single word have no pair.
        return float(answered == expected)
    return _f1((first & second).total(), first.total(), second.total())


def rouge_lsum(answer: str, reference: str) -> float:
    """ROUGE-Lsum: from the union of the longest common subsequences of each sentence of the reference.

    Each word counts at most as often as in the other text.
    """
    answered, expected = ([words(sentence) for sentence in sentences(text)] for text in (answer, reference))
    counts = [Counter(word for sentence in text for word in sentence) for text in (answered, expected)]
    if not all(counts):
        return _without_words(answer, reference, counts[0], counts[1])
    left, hits = Counter(counts[0]), 0
    for sentence in expected:
        union = set().union(*(_common_indices(sentence, other) for other in answered))
        for index in sorted(union):
            word = sentence[index]
            if left[word]:
                left[word] -= 1
                hits += 1
    return _f1(hits, counts[0].total(), counts[1].total())


rouge_1, rouge_2 = partial(rouge_n, length=1), partial(rouge_n, length=2)


def words(text: str) -> list[str]:
    """The words of ``text`` in lower case; the composed form of characters."""
    return list(_WORDS.findall(unicodedata.normalize("NFC", text).lower()))


def sentences(text: str) -> list[str]:
    """The lines of ``text``; the sentences of a text of one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return lines
    from sentencex import segment

    return [str(sentence) for sentence in segment("en", text)]


def _without_words(answer: str, reference: str, answered: object, expected: object) -> float:
    return float(not answered and not expected and answer.strip() == reference.strip())


def _f1(common: int, answered: int, expected: int) -> float:
    return 2 * common / (answered + expected) if common else 0.0


def _longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    positions: dict[str, int] = {}  # A bit mask of indices in ``left``, for each word.
    for index, word in enumerate(left):
        positions[word] = positions.get(word, 0) | 1 << index
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        matched = row & positions.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(left) - row.bit_count()


def _common_indices(sentence: Sequence[str], other: Sequence[str]) -> set[int]:
    """The indices in ``sentence`` of a longest common subsequence with ``other``."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(sentence) + 1)]
    for row, word in enumerate(sentence, 1):
        for column, another in enumerate(other, 1):
            lengths[row][column] = (
                lengths[row - 1][column - 1] + 1
                if word == another
                else max(lengths[row - 1][column], lengths[row][column - 1])
            )
    indices, row, column = set(), len(sentence), len(other)
    while row and column:
        if sentence[row - 1] == other[column - 1]:
            indices.add(row - 1)
            row, column = row - 1, column - 1
        elif lengths[row][column - 1] > lengths[row - 1][column]:
            column -= 1
        else:
            row -= 1
    return indices
