"""The tokens that pad a batch and end an answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer.prepare.special_tokens import choose_ends, choose_padding

NAMES = {0: "<a>", 1: "<unk>", 2: "<end>", 7: "<turn>", 9: "<pad>"}


class Tokenizer(SimpleNamespace):
    """The attributes of a tokenizer that are used here."""

    def convert_ids_to_tokens(self, token: int) -> str:
        return NAMES[token]


def a_tokenizer(**given: Any) -> Any:
    known = {"pad_token_id": 9, "eos_token_id": 2, "unk_token_id": 1, "chat_template": "{{ messages }}"}
    return Tokenizer(**{**known, **given})


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
    assert choose_ends(a_tokenizer(), learned, config, generation) == ends


def test_the_tokenizer_gets_the_end_of_turn_unless_the_template_uses_its_own_end() -> None:
    tokenizer = a_tokenizer()
    choose_ends(tokenizer, [7], {}, {})
    assert tokenizer.eos_token == "<turn>"
    own = a_tokenizer(chat_template="{{ messages }}{{ eos_token }}")
    choose_ends(own, [7], {}, {})
    assert not hasattr(own, "eos_token")
