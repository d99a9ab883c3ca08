"""The tokens that pad a batch and end an answer."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer.prepare.special_tokens import AnswerTokens, choose_ends, choose_padding, end_notes

NAMES = {0: "<a>", 1: "<unk>", 2: "<end>", 7: "<turn>", 9: "<pad>"}


class Tokenizer(SimpleNamespace):
    """The attributes of a tokenizer that are used here."""

    def convert_ids_to_tokens(self, token: int) -> str:
        return NAMES[token]


def a_tokenizer(**given: Any) -> Any:
    known = {"pad_token_id": 9, "eos_token_id": 2, "unk_token_id": 1, "chat_template": "{{ messages }}"}
    return Tokenizer(**{**known, **given})


def the_answers(*ends: int) -> AnswerTokens:
    return AnswerTokens(Counter({token: 100 - place for place, token in enumerate(ends)}))


@pytest.mark.parametrize(
    ("given", "vocabulary", "chosen"),
    [
        ({}, 10, 9),
        ({}, None, 9),
        ({}, 9, 2),
        ({"pad_token_id": None}, 10, 2),
        ({"pad_token_id": None, "eos_token_id": None}, 10, 1),
        ({"eos_token_id": 30}, 9, 1),
        ({"pad_token_id": None, "eos_token_id": None, "unk_token_id": None}, 10, 0),
    ],
)
def test_padding_is_a_token_that_the_model_has(given: dict[str, Any], vocabulary: int | None, chosen: int) -> None:
    tokenizer = a_tokenizer(**given)
    assert choose_padding(tokenizer, vocabulary) == chosen
    assert getattr(tokenizer, "pad_token", NAMES[9]) == NAMES[chosen]


@pytest.mark.parametrize(
    ("learned", "config", "generation", "ends"),
    [
        ([7], {}, {}, (7, 2)),
        ([7, 2], {"eos_token_id": 5}, {}, (7, 2, 5)),
        ([2], {"eos_token_id": 5}, {"eos_token_id": [3, 4]}, (2, 3, 4)),
        ([], {"eos_token_id": 5}, {}, ()),
    ],
)
def test_ends_are_those_of_the_data_then_of_the_model(
    learned: list[int], config: dict[str, Any], generation: dict[str, Any], ends: tuple[int, ...]
) -> None:
    assert choose_ends(a_tokenizer(), the_answers(*learned), config, generation) == ends


@pytest.mark.parametrize(
    ("inside", "ends", "notes"),
    [
        # A thinking block that ends with the token that ends earlier answers.
        ({7: 60}, (9, 2, 5), []),
        # Answers that contain the end token of the base model.
        ({2: 30}, (7, 9, 5), []),
        ({2: 1}, (7, 9, 2, 5), ["1 of 100 answers contain the end token '<end>'"]),
        ({7: 12}, (7, 9, 2, 5), ["12 of 100 answers contain the end token '<turn>'"]),
    ],
)
def test_a_token_inside_answers_does_not_end_them(
    inside: dict[int, int], ends: tuple[int, ...], notes: list[str]
) -> None:
    answers = AnswerTokens(Counter({7: 60, 9: 40}), Counter(inside))
    tokenizer = a_tokenizer()
    assert choose_ends(tokenizer, answers, {"eos_token_id": [2, 5]}, {}) == ends
    assert tokenizer.eos_token == NAMES[ends[0]]
    assert [note.partition(";")[0] for note in end_notes(tokenizer, ends, answers)] == notes


def test_the_tokenizer_gets_the_end_of_turn_unless_the_template_uses_its_own_end() -> None:
    tokenizer = a_tokenizer()
    choose_ends(tokenizer, the_answers(7), {}, {})
    assert tokenizer.eos_token == "<turn>"
    own = a_tokenizer(chat_template="{{ messages }}{{ eos_token }}")
    choose_ends(own, the_answers(7), {}, {})
    assert not hasattr(own, "eos_token")
