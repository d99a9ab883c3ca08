"""Deduplication and splits: no leakage, and an assignment that depends on content only."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finetune_api.failures import StageFailure
from finetune_trainer.prepare.dedupe import content_key, without
from finetune_trainer.prepare.splits import Assignment, assign, check_processes, check_sizes, draw
from finetune_trainer.tasks.text_classification.rows import Labelled
from tests.unit.prepare_cases import a_chat, a_conversation, a_spec

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


def test_keys_are_those_of_the_exact_text() -> None:
    assert content_key(Labelled("if x:\n    y", "x")) == content_key(Labelled("if x:\n    y", "z"))
    assert content_key(Labelled("if x:\n    y", "x")) != content_key(Labelled("if x:\n  y", "x"))


def test_keys_of_conversations_depend_on_every_message_and_role() -> None:
    chats = [
        a_chat(("user", "a"), ("assistant", "b")),
        a_chat(("user", "a"), ("assistant", "c")),
        a_chat(("system", "a"), ("assistant", "b")),
        a_chat(("user", "a b"), ("assistant", "b")),
        a_chat(("user", "z"), ("assistant", "y"), ("user", "a"), ("assistant", "b")),
    ]
    assert len({content_key(a_conversation(chat)) for chat in chats}) == len(chats)


def test_without_keeps_the_order() -> None:
    assert without([b"a", b"b", b"a", b"c"], {b"b"}, [b"c"]) == [0, 2]


def test_drawn_sets_have_their_fraction_and_are_disjoint() -> None:
    drawn = draw(keys(*range(10_000)), {"test": 0.2, "validation": 0.1}, seed=1)
    assert len(drawn["test"]) == pytest.approx(2000, abs=150)
    assert len(drawn["validation"]) == pytest.approx(1000, abs=120)
    assert not drawn["test"] & drawn["validation"]


def test_the_draw_depends_on_the_seed() -> None:
    thousand = keys(*range(1000))
    assert draw(thousand, {"test": 0.2}, seed=1) != draw(thousand, {"test": 0.2}, seed=2)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 60), min_size=4, max_size=80), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_draw_does_not_depend_on_order_or_repetition(numbers: list[int], seed: int, order: random.Random) -> None:
    shuffled = [*numbers, *numbers[: len(numbers) // 2]]
    order.shuffle(shuffled)
    fractions = {"test": 0.1, "validation": 0.3}
    assert draw(keys(*numbers), fractions, seed) == draw(keys(*shuffled), fractions, seed)


@settings(max_examples=100)
@given(
    before=st.lists(st.integers(0, 300), min_size=3, max_size=80, unique=True),
    added=st.lists(st.integers(301, 900), max_size=80, unique=True),
    seed=st.integers(0, 5),
)
def test_no_row_becomes_a_test_row_when_rows_are_added(before: list[int], added: list[int], seed: int) -> None:
    fractions = {"test": 0.1, "validation": 0.1}
    first, second = (draw(keys(*numbers), fractions, seed) for numbers in (before, [*before, *added]))
    assume(first["test"])  # A job without test rows is refused, so it has trained on nothing.
    assert second["test"] & set(keys(*before)) <= first["test"]


def test_each_label_has_the_same_share_in_every_split_on_average() -> None:
    drawn = draw(keys(*range(20_000)), {"test": 0.1, "validation": 0.1}, seed=3)
    for label in range(4):
        of_label = set(keys(*range(label, 20_000, 4)))
        assert len(of_label & drawn["test"]) == pytest.approx(500, abs=80)
        assert len(of_label & drawn["validation"]) == pytest.approx(500, abs=80)


@pytest.mark.parametrize("seed", range(5))
def test_each_split_of_a_small_data_set_has_a_row(seed: int) -> None:
    drawn = draw(keys(1, 2, 3), {"test": 0.01, "validation": 0.01}, seed)
    assert {split: len(rows) for split, rows in drawn.items()} == {"test": 1, "validation": 1}


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


@pytest.mark.parametrize(
    ("data", "dataset", "sentence"),
    [
        ({"train": keys(1)}, {}, "There are no examples in the validation split: add data, or change the fractions"),
        (
            {"train": keys(1, 2, 3), "test": keys(1, 2, 3), "validation": keys(4)},
            {"test": OWN, "validation": OWN},
            "There are no examples in the train split of file:///data/train.jsonl after removal of 3 that are also in "
            "another split: add data, or change the fractions",
        ),
        (
            {"train": keys(1, 2, 3), "test": keys(4), "validation": keys(4)},
            {"test": OWN, "validation": OWN},
            "There are no examples in the validation split after removal of 1 that are also in another split: add "
            "data, or change the fractions",
        ),
        (
            {"train": keys(1, 2, 3), "test": keys(4, 5, 6, 7), "validation": keys(8)},
            {"test": OWN, "validation": OWN},
            "The test split has 4 examples, too few to compare the tuned model with its baseline: add data, raise "
            "dataset.test.fraction, or lower dataset.test.minimumExamples from 5",
        ),
    ],
)
def test_a_split_with_too_few_examples_is_rejected(
    data: dict[str, list[bytes]], dataset: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StageFailure) as failure:
        check_sizes(assigned(data, **dataset), a_spec(dataset=dataset).dataset)
    assert failure.value.message == sentence


def test_fewer_test_examples_are_accepted_if_the_job_says_so() -> None:
    data = {"train": keys(1, 2, 3), "test": keys(4), "validation": keys(5)}
    dataset = {"test": {**OWN, "minimumExamples": 1}, "validation": OWN}
    check_sizes(assigned(data, **dataset), a_spec(dataset=dataset).dataset)


def test_more_processes_than_training_examples_are_rejected() -> None:
    check_processes(8, 8, "example")
    with pytest.raises(StageFailure) as failure:
        check_processes(7, 8, "example")
    assert failure.value.message == (
        "More processes than examples: 8 processes (distributed.workers × gpusPerWorker) would share 7 training "
        "examples; add data or lower distributed.workers"
    )


def test_content_keys_never_change() -> None:
    """Splits are drawn by them: with other keys, the same job would train and test on other rows."""
    chat = [{"role": "user", "content": " two  words "}, {"role": "assistant", "content": "yes"}]
    assert content_key(Labelled("two  words", "x")).hex() == "3869bf15ecbb99c933b7c4807200e86f"
    assert content_key(a_conversation(chat)).hex() == "54015acef6faac197cf2f94883efe44d"


@pytest.mark.parametrize("seed", range(20))
def test_the_test_split_has_its_minimum_if_its_fraction_is_that_many(seed: int) -> None:
    few, enough = keys(*range(40)), keys(*range(48))
    fractions = {"test": 0.1, "validation": 0.1}
    drawn = draw(enough, fractions, seed, test_minimum=5)
    assert len(drawn["test"]) >= 5
    assert not drawn["test"] & drawn["validation"]
    assert draw(few, fractions, seed, test_minimum=5) == draw(few, fractions, seed)
    grown = draw([*enough, *keys(*range(48, 70))], fractions, seed, test_minimum=5)
    assert grown["test"] & set(enough) <= drawn["test"]


@given(st.lists(st.integers(0, 12), min_size=2, max_size=80), st.integers(0, 9))
def test_rows_of_a_group_are_in_one_split(numbers: list[int], seed: int) -> None:
    contents = keys(*range(len(numbers)))
    groups = [b"group %d" % number for number in numbers]
    assignment = assign({"train": contents}, a_spec().dataset, seed, groups)
    rows = [row for selection in assignment.splits.values() for row in selection.rows]
    assert sorted(rows) == list(range(len(numbers)))
    of_split = [{numbers[row] for row in selection.rows} for selection in assignment.splits.values()]
    count = len(set(numbers))
    assert sum(map(len, of_split)) == count
    assert assignment.groups == (count if count < len(numbers) else None)


@pytest.mark.parametrize("seed", range(20))
def test_the_test_split_gets_whole_groups_up_to_its_minimum(seed: int) -> None:
    groups = [b"group %d" % (row // 10) for row in range(200)]
    assignment = assign({"train": keys(*range(200))}, a_spec().dataset, seed, groups)
    assert 5 <= len(assignment.splits["test"].rows) < 200
    assert len(assignment.splits["test"].rows) % 10 == 0
    check_sizes(assignment, a_spec().dataset)


def test_a_single_group_is_not_divided_and_the_message_says_so() -> None:
    assignment = assign({"train": keys(*range(100))}, a_spec().dataset, 1, [b"one"] * 100)
    with pytest.raises(StageFailure, match="rows of one text or title stay together, and train has 1 of them"):
        check_sizes(assignment, a_spec().dataset)


def test_groups_that_are_the_rows_change_no_split() -> None:
    contents = keys(*range(300))
    assert assign({"train": contents}, a_spec().dataset, 3, list(contents)) == assign(
        {"train": contents}, a_spec().dataset, 3
    )
