"""Where answers stand in their context."""

from __future__ import annotations

import pytest

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.question_answering.positions import Placed, Span, is_whole, place
from finetune_trainer.tasks.question_answering.rows import Answer

LEEDS = "The boiler was built in Leeds and runs at 8 bar; Leeds is a city."
PARTY = "A party of Japanese guests in the 1930s; a party."


@pytest.mark.parametrize(
    ("answer", "placed"),
    [
        (Answer("Leeds", 24), Placed((Span(24, 29),))),
        (Answer("The boiler", 0), Placed((Span(0, 10),))),
        (Answer("city.", 60), Placed((Span(60, 65),))),
        (Answer("8 bar", 41), Placed((Span(42, 47),), moved=1)),
        (Answer("8 bar", -3), Placed((Span(42, 47),), moved=1)),
        (Answer(" Leeds ", 23), Placed((Span(24, 29),))),
        (Answer("8 bar"), Placed((Span(42, 47),))),
        (Answer("Leeds"), Placed((Span(24, 29),), ambiguous=1)),
    ],
)
def test_an_answer_is_found_or_moved_to_the_only_place_where_it_stands(answer: Answer, placed: Placed) -> None:
    assert place(LEEDS, [answer]) == placed


@pytest.mark.parametrize(
    ("context", "answer", "message"),
    [
        (LEEDS, Answer("London", 24), "the answer 'London' is not in its context"),
        (LEEDS, Answer("leeds", 24), "'leeds' is not in its context, where it has another case, white space or form"),
        ("Ame\u0301lie", Answer("Am\u00e9lie"), "is not in its context, where it has another case"),
        ("10\u00a0euros", Answer("10 euros"), "is not in its context, where it has another case"),
        (LEEDS, Answer("Leeds", 25), "'Leeds' is not at its answer_start 25, and stands 2 times in its context"),
        (PARTY, Answer("Japan", 11), "'Japan' stands only inside a word"),
        (PARTY, Answer("art"), "'art' stands only inside a word"),
        ("Cafe\u0301 Noir", Answer("Cafe", 0), "'Cafe' stands only inside a word"),
        ("It cost 1500.", Answer("15", 8), "'15' stands only inside a word"),
    ],
)
def test_an_answer_without_a_place_is_refused(context: str, answer: Answer, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        place(context, [answer])


def test_no_answer_has_no_place() -> None:
    assert place(LEEDS, []) == Placed()


def test_one_of_several_answers_with_a_place_is_enough() -> None:
    assert place(LEEDS, [Answer("Yorkshire"), Answer("Leeds", 24)]) == Placed((Span(24, 29),), absent=1)


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("東京タワーは333メートルです。", "333メートル"),
        ("서울은 크다", "서울"),
        ("ประเทศไทย", "ไทย"),
        ("10mm long", "10"),
        ("A7", "7"),
    ],
)
def test_scripts_without_spaces_and_numbers_before_letters_have_no_word_around_them(context: str, answer: str) -> None:
    start = context.index(answer)
    assert is_whole(context, Span(start, start + len(answer)))
