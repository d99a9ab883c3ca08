"""Rows of PreferenceTuning."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.preference_tuning.rows import PairRows, desirable, recognise

QUESTION = [{"role": "user", "content": "2+2?"}]
PAIRS = PairRows("prompt", "chosen", "rejected")
WHOLE = PairRows(None, "chosen", "rejected")


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def turn(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("2+2?", "4", "5"),
        (QUESTION, [answer("4")], [answer("5")]),
        ("2+2?", answer("4"), answer("5")),
        ([{"from": "human", "value": "2+2?"}], turn("4"), turn("5")),
        (QUESTION, [*QUESTION, answer("4")], [*QUESTION, answer("5")]),
        (json.dumps(QUESTION), json.dumps([answer("4")]), str([answer("5")])),
    ],
)
def test_answers_may_be_texts_messages_and_turns(prompt: Any, chosen: Any, rejected: Any) -> None:
    found = PAIRS.example({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    assert found.chosen.messages == [*QUESTION, answer("4")]
    assert found.rejected.messages == [*QUESTION, answer("5")]


@pytest.mark.parametrize("write", [list, json.dumps, str])
def test_conversations_may_contain_the_prompt(write: Any) -> None:
    chats = [write([*QUESTION, answer(text)]) for text in ("4", "5")]
    found = WHOLE.example({"chosen": chats[0], "rejected": chats[1]})
    assert found.rejected.messages == [*QUESTION, answer("5")]


def test_texts_without_a_prompt_are_explained() -> None:
    row = {"chosen": "Human: 2+2?\n\nAssistant: 4", "rejected": "Human: 2+2?\n\nAssistant: 5"}
    with pytest.raises(BadRow, match=r"column 'prompt' is missing .*, or write prompt and answer as messages"):
        WHOLE.example(row)


def test_answers_alone_need_a_prompt() -> None:
    with pytest.raises(BadRow, match=r"column 'prompt' is missing \(columns: 'chosen', 'rejected'\); set"):
        WHOLE.example({"chosen": [answer("4")], "rejected": [answer("5")]})


def test_a_list_of_numpy_is_no_text() -> None:
    written = "[{'content': '2+2?', 'role': 'user'}\n {'content': '4', 'role': 'assistant'}]"
    with pytest.raises(BadRow, match="column 'chosen' begins as a list of messages but is not valid JSON"):
        WHOLE.example({"chosen": written, "rejected": written})


def test_a_number_that_judges_nothing_is_shown() -> None:
    with pytest.raises(BadRow, match="contains the number -1, which is neither true nor false"):
        desirable(-1, "label")


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, {}),
        ({"question": "2+2?", "chosen": "4", "rejected": "5"}, {"prompt": "question"}),
        ({"conversations": [turn("Hi.")], "chosen": turn("4"), "rejected": turn("5")}, {"prompt": "conversations"}),
        ({"input": "a file", "chosen": [*QUESTION, answer("4")], "rejected": [*QUESTION, answer("5")]}, {}),
        ({"input": "a file", "chosen": str([*QUESTION, answer("4")]), "rejected": "x"}, {}),
        ({"id": "1", "chosen": "4", "rejected": "5"}, {}),
    ],
)
def test_the_column_of_the_prompt_is_recognised(row: dict[str, Any], columns: dict[str, str]) -> None:
    found = recognise(tuple(row), [row])
    assert found is not None
    assert found.columns == columns
