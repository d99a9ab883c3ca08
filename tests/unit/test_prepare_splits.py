"""Deduplication and splits: no leakage, and an assignment that depends on content only."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.failures import StageFailure
from finetune_trainer.prepare.dedupe import content_key, normalised, without
from finetune_trainer.prepare.splits import Assignment, assign, check_processes, check_sizes, draw
from finetune_trainer.tasks.instruction_tuning.rows import Conversation
from finetune_trainer.tasks.text_classification.rows import Labelled
from tests.unit.prepare_cases import a_chat, a_spec

OWN = {"uri": "file:///data/own.jsonl"}


def keys(*numbers: int) -> list[bytes]:
    return [content_key(Labelled(f"text {number}", "x")) for number in numbers]


def assigned(data: dict[str, list[bytes]], seed: int = 17, **dataset: Any) -> Assignment:
    return assign(data, a_spec(dataset=dataset).dataset, seed)


def keys_by_split(assignment: Assignment, data: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    """The keys of each split."""
    return {
        split: [data[selection.origin][row] for row in selection.rows] for split, selection in assignment.splits.items()
    }


def test_keys_ignore_white_space_and_unicode_normalisation_forms() -> None:
    assert normalised(" a\u00a0\tb\n") == "a b"
    assert content_key(Labelled("cafe\u0301  au lait", "x")) == content_key(Labelled("café au\nlait ", "y"))
    assert content_key(Labelled("Cafe", "x")) != content_key(Labelled("cafe", "x"))


def test_keys_of_conversations_depend_on_every_message_and_role() -> None:
    chats = [
        a_chat(("user", "a"), ("assistant", "b")),
        a_chat(("user", "a"), ("assistant", "c")),
        a_chat(("system", "a"), ("assistant", "b")),
        a_chat(("user", "a b"), ("assistant", "b")),
        a_chat(("user", "z"), ("assistant", "y"), ("user", "a"), ("assistant", "b")),
    ]
    assert len({content_key(Conversation(chat)) for chat in chats}) == len(chats)


def test_without_keeps_the_order() -> None:
    assert without([b"a", b"b", b"a", b"c"], {b"b"}, [b"c"]) == [0, 2]


def test_drawn_sets_have_their_fraction_and_are_disjoint() -> None:
    test, validation = draw(keys(*range(1000)), (0.2, 0.1), seed=1)
    assert (len(test), len(validation)) == (200, 100)
    assert not test & validation


def test_the_draw_depends_on_the_seed() -> None:
    assert draw(keys(*range(1000)), (0.2,), seed=1) != draw(keys(*range(1000)), (0.2,), seed=2)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 60), min_size=4, max_size=80), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_draw_does_not_depend_on_order_or_repetition(numbers: list[int], seed: int, order: random.Random) -> None:
    shuffled = [*numbers, *numbers[: len(numbers) // 2]]
    order.shuffle(shuffled)
    assert draw(keys(*numbers), (0.1, 0.3), seed) == draw(keys(*shuffled), (0.1, 0.3), seed)


@settings(max_examples=100)
@given(
    train=st.lists(st.integers(0, 40), max_size=60, unique=True),
    validation=st.one_of(st.none(), st.lists(st.integers(0, 40), max_size=20, unique=True)),
    test=st.one_of(st.none(), st.lists(st.integers(0, 40), max_size=20, unique=True)),
)
def test_every_row_is_in_exactly_one_split(
    train: list[int], validation: list[int] | None, test: list[int] | None
) -> None:
    own = {"validation": validation, "test": test}
    data = {"train": keys(*train), **{name: keys(*rows) for name, rows in own.items() if rows is not None}}
    dataset = {name: OWN if rows is not None else {"fraction": 0.2} for name, rows in own.items()}
    assignment = assigned(data, **dataset)
    splits = keys_by_split(assignment, data)
    everything = [key for split in splits.values() for key in split]
    assert len(everything) == len(set(everything))
    assert set(everything) == {key for rows in data.values() for key in rows}
    assert assignment.leaked == sum(map(len, data.values())) - len(everything)
    for selection in assignment.splits.values():
        assert selection.rows == sorted(selection.rows)


def test_rows_of_the_test_data_are_removed_from_train_and_validation() -> None:
    data = {"train": keys(1, 2, 3, 4), "validation": keys(3, 5, 6), "test": keys(4, 5)}
    assignment = assigned(data, validation=OWN, test=OWN)
    assert keys_by_split(assignment, data) == {"train": keys(1, 2), "validation": keys(3, 6), "test": keys(4, 5)}
    assert assignment.leaked == 3


def test_equal_rows_are_in_one_split_without_deduplication() -> None:
    data = {"train": keys(*range(20)) * 3}
    assignment = assigned(data, cleaning={"deduplicate": "None"})
    splits = keys_by_split(assignment, data)
    assert assignment.leaked == 0
    assert sum(map(len, splits.values())) == 60
    assert not set(splits["train"]) & (set(splits["test"]) | set(splits["validation"]))
    assert {len(split) % 3 for split in splits.values()} == {0}


def test_every_split_of_three_rows_has_one() -> None:
    data = {"train": keys(1, 2, 3)}
    sizes = {split: len(selection.rows) for split, selection in assigned(data).splits.items()}
    assert sizes == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    ("data", "dataset", "sentence"),
    [
        (
            {"train": keys(1)},
            {},
            "The validation split has no examples: add data, or set dataset.validation.uri",
        ),
        (
            {"train": keys(1, 2)},
            {},
            "The train split of file:///data/train.jsonl has no examples: add data or lower the fractions",
        ),
        (
            {"train": keys(1, 2, 3), "test": keys(1, 2, 3), "validation": keys(4)},
            {"test": OWN, "validation": OWN},
            "The train split of file:///data/train.jsonl has no examples after removal of 3 that are also in another "
            "split: add data or lower the fractions",
        ),
        (
            {"train": keys(1, 2, 3), "test": keys(4), "validation": keys(4)},
            {"test": OWN, "validation": OWN},
            "The validation split has no examples after removal of 1 that are also in another split: add data, or set "
            "dataset.validation.uri",
        ),
    ],
)
def test_an_empty_split_is_rejected(data: dict[str, list[bytes]], dataset: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StageFailure) as failure:
        check_sizes(assigned(data, **dataset), "file:///data/train.jsonl")
    assert failure.value.message == sentence


def test_more_processes_than_training_examples_are_rejected() -> None:
    check_processes(8, 8)
    with pytest.raises(StageFailure) as failure:
        check_processes(7, 8)
    assert failure.value.message == (
        "More processes than examples: 8 processes (distributed.workers × gpusPerWorker) would share 7 training "
        "examples; add data or lower distributed.workers"
    )


def test_content_keys_never_change() -> None:
    """Splits are drawn by them: with other keys, the same job would train and test on other rows."""
    chat = [{"role": "user", "content": " two  words "}, {"role": "assistant", "content": "yes"}]
    assert content_key(Labelled("two  words", "x")).hex() == "0a74d9f8dc440af6bd63bbaf0c17cc5d"
    assert content_key(Conversation(chat)).hex() == "b55af242ef5b19607cf858686b8e2264"
