"""Contexts that are cut to the room that a model has, and the texts that generative models read and write."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.question_answering.generative.cutting import around, head, largest
from finetune_trainer.tasks.question_answering.generative.scoring import span_of
from finetune_trainer.tasks.question_answering.generative.texts import is_no_answer, target
from finetune_trainer.tasks.question_answering.positions import Span
from finetune_trainer.tasks.question_answering.rows import Answer, Question

CONTEXT = "The mill at the river closed in May. Forty people lost their jobs that year."


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-1, 60)), max_size=8))
def test_the_largest_size_that_fits_is_found(rows: list[tuple[int, int]]) -> None:
    """Each row has its largest size, and its room in characters."""
    asked: list[int] = []

    def fit(sources: Sequence[str]) -> list[bool]:
        asked.append(len(sources))
        return [len(source.partition(":")[2]) <= int(source.partition(":")[0]) for source in sources]

    found = largest([size for size, _ in rows], lambda row, size: f"{rows[row][1]}:{'x' * size}", fit)
    assert found == [min(size, room) for size, room in rows]
    assert len(asked) <= 8


def test_texts_that_fit_are_tokenised_once() -> None:
    calls = []

    def fit(sources: Sequence[str]) -> list[bool]:
        calls.append(list(sources))
        return [True] * len(sources)

    assert largest([3, 0], lambda _, size: "x" * size, fit) == [3, 0]
    assert calls == [["xxx", ""]]


@pytest.mark.parametrize(
    ("size", "expected"), [(200, CONTEXT), (3, "The"), (6, "The"), (8, "The mill"), (2, "Th"), (0, "")]
)
def test_a_head_ends_after_a_word(size: int, expected: str) -> None:
    assert head(CONTEXT, size) == expected


def test_a_text_without_spaces_is_cut_between_characters() -> None:
    assert head("水" * 100, 40) == "水" * 40


@given(st.integers(0, len(CONTEXT)), st.integers(0, 20), st.integers(0, 100))
def test_a_part_around_an_answer_has_the_answer(start: int, length: int, size: int) -> None:
    span = Span(start, min(len(CONTEXT), start + length))
    part = around(CONTEXT, span, size)
    assert CONTEXT[start : span.end].strip() in part
    assert part in CONTEXT
    assert len(part) <= span.end - span.start + 2 * size


def test_a_part_around_an_answer_consists_of_whole_words() -> None:
    start = CONTEXT.index("Forty")
    assert around(CONTEXT, Span(start, start + 5), 10) == "in May. Forty people"


@pytest.mark.parametrize("text", ["unanswerable", " Unanswerable.", "", "\n"])
def test_what_counts_as_no_answer(text: str) -> None:
    assert is_no_answer(text)


def test_the_first_answer_is_learned() -> None:
    assert target(Question("When?", CONTEXT, (Answer(" in May"), Answer("May")))) == "in May"
    assert target(Question("Who?", CONTEXT, ())) == "unanswerable"


def test_an_answer_that_means_no_answer_is_refused() -> None:
    with pytest.raises(BadRow, match=r"'Unanswerable\.' is what the model learns to write where there is no answer"):
        target(Question("What?", CONTEXT, (Answer("May"), Answer("Unanswerable."))))


@pytest.mark.parametrize(
    ("answer", "span"), [("May", (32, 35)), ("may", (32, 35)), ("June", None), ("", None), (None, None)]
)
def test_a_generated_answer_is_marked_where_it_stands(answer: str | None, span: tuple[int, int] | None) -> None:
    assert span_of(answer, CONTEXT) == span
