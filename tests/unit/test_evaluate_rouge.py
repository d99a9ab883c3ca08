"""ROUGE, compared with rouge-score."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import pytest

from finetune_trainer.evaluate.rouge import rouge_1, rouge_2, rouge_l, rouge_lsum, words

Score = Callable[[str, str], float]
OURS: dict[str, Score] = {"rouge1": rouge_1, "rouge2": rouge_2, "rougeL": rouge_l, "rougeLsum": rouge_lsum}
SENTENCES = [
    ("the cat sat on the mat", "the cat was on the mat"),
    ("", "something"),
    ("something", ""),
    ("It's a DOG, isn't it?", "its a dog isn't it"),
    ("a b a b a b", "b a b a"),
    ("one", "two"),
    ("the mill closed\nforty people left\nthe town is quiet", "forty people left the town\nthe old mill closed"),
]


@pytest.fixture(scope="module")
def peers() -> dict[str, Score]:
    """The functions of rouge-score. A fixture, because the import of NLTK takes two seconds."""
    from rouge_score.rouge_scorer import RougeScorer

    def peer(name: str) -> Score:
        scorer = RougeScorer([name])
        return lambda answer, reference: float(scorer.score(reference, answer)[name].fmeasure)

    return {name: peer(name) for name in OURS}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("answer", "reference"), SENTENCES)
def test_equals_rouge_score_on_english(name: str, answer: str, reference: str, peers: dict[str, Score]) -> None:
    # For texts of a single word, rouge-score has no pair of words and gives 0.
    expected = peers[name](answer, reference)
    assert OURS[name](answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize("name", OURS)
def test_equals_rouge_score_on_random_words(name: str, peers: dict[str, Score]) -> None:
    generator = np.random.default_rng(5)
    for _ in range(40):
        lines = [
            "\n".join(" ".join(generator.choice(list("abcdefg"), generator.integers(2, 30))) for _ in range(3))
            for _ in range(2)
        ]
        assert OURS[name](*lines) == pytest.approx(peers[name](*lines))


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("привет мир", "привет мир", 1.0),
        ("привет мир", "привет", 2 / 3),
        ("今日は雨", "今日は晴", 0.75),
        ("{}", "{}", 1.0),
        ("{}", "[]", 0.0),
        ("...", "The mill closed.", 0.0),
    ],
)
@pytest.mark.parametrize("metric", [rouge_l, rouge_1, rouge_lsum])
def test_supports_other_scripts_and_texts_without_words(
    metric: Score, answer: str, reference: str, score: float
) -> None:
    assert metric(answer, reference) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("लड़की और लड़का", ["लड़की", "और", "लड़का"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("مَرحبًا بالعالم", ["مَرحبًا", "بالعالم"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("Cafe\u0301 Noir", ["caf\u00e9", "noir"]),
        ("中国x1, カー_b", ["中", "国", "x1", "カ", "ー", "b"]),
        ("한국어 말", ["한국어", "말"]),
    ],
)
def test_words_have_their_vowels_and_marks(text: str, found: list[str]) -> None:
    assert words(text) == [unicodedata.normalize("NFC", word) for word in found]


def test_words_with_other_vowels_differ() -> None:
    assert rouge_1("लड़की", "लड़का") == 0.0


def test_the_same_single_word_has_all_its_pairs() -> None:
    assert (rouge_2("yes", "yes"), rouge_2("yes", "no")) == (1.0, 0.0)


def test_lsum_splits_the_sentences_of_a_text_of_one_line() -> None:
    """rouge-score splits at line breaks only, so that the order of sentences would count (case 07)."""
    answer = "The mill closed in May. Forty people lost their jobs."
    reference = "Forty people lost their jobs. The mill closed in May."
    assert (rouge_l(answer, reference), rouge_lsum(answer, reference)) == (0.5, 1.0)
