"""ShareGPT and Alpaca."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.rows import RowSchema
from finetune_trainer.tasks.instruction_tuning.layouts import AlpacaRows, ShareGptRows
from finetune_trainer.tasks.instruction_tuning.messages import Conversation
from finetune_trainer.tasks.instruction_tuning.rows import ChatRows, PromptRows, SingleTurns, schema_for
from tests.unit.prepare_cases import a_chat, a_conversation, a_file, a_spec

SHARE_GPT = ShareGptRows("conversations")
ALPACA = AlpacaRows()


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in pairs]


QUESTION = turns(("human", "2+2?"), ("gpt", "4"))


@pytest.mark.parametrize(
    ("columns", "schema"),
    [
        ("messages", ChatRows("messages")),
        ("messages conversations", ChatRows("messages")),
        ("prompt completion", PromptRows("prompt", "completion")),
        ("conversations id", SHARE_GPT),
        ("instruction input output", ALPACA),
        ("instruction output", ALPACA),
        ("instruction response", PromptRows("prompt", "completion")),
    ],
)
def test_the_layout_is_that_of_the_first_row(tmp_path: Path, columns: str, schema: object) -> None:
    file = a_file(tmp_path / "a.jsonl", json.dumps(dict.fromkeys(columns.split(), "x")))
    assert schema_for(a_spec("InstructionTuning"), [file]) == schema


def test_the_columns_of_the_spec_take_precedence(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a.jsonl", '{"conversations": [], "instruction": "", "output": ""}')
    spec = a_spec("InstructionTuning", dataset={"columns": {"prompt": "instruction", "completion": "output"}})
    assert schema_for(spec, [file]) == PromptRows("instruction", "output")
    spec = a_spec("InstructionTuning", dataset={"columns": {"messages": "conversations"}})
    assert schema_for(spec, [file]) == SHARE_GPT


@pytest.mark.parametrize("user", ["human", "user"])
@pytest.mark.parametrize("assistant", ["gpt", "assistant", "chatgpt", "model"])
def test_turns_become_messages(user: str, assistant: str) -> None:
    found = SHARE_GPT.example({"conversations": turns(("system", "Be brief."), (user, "2+2?"), (assistant, "4"))})
    assert found == a_conversation(a_chat(("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")))


@pytest.mark.parametrize(
    ("schema", "row"),
    [
        (SHARE_GPT, {"conversations": QUESTION}),
        (ALPACA, {"instruction": "2+2?", "output": "4"}),
        (ChatRows("messages"), {"messages": a_chat(("user", "2+2?"), ("assistant", "4"))}),
        (PromptRows("prompt", "completion"), {"prompt": "2+2?", "completion": "4"}),
    ],
)
def test_the_system_column_comes_first(schema: RowSchema, row: dict[str, Any]) -> None:
    assert "system" in schema.optional
    found = schema.example(row | {"system": "Be brief."})
    assert found == a_conversation(a_chat(("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")))
    without = a_conversation(a_chat(("user", "2+2?"), ("assistant", "4")))
    assert schema.example(row) == schema.example(row | {"system": " "}) == without


def test_a_column_of_prompts_may_have_the_name_system() -> None:
    schema = PromptRows("system", "completion")
    found = schema.example({"system": "2+2?", "completion": "4"})
    assert schema.optional == ()
    assert found == a_conversation(a_chat(("user", "2+2?"), ("assistant", "4")))


@pytest.mark.parametrize("messages", [None, "hello", 3])
def test_a_system_column_beside_no_messages_is_an_invalid_row(messages: object) -> None:
    for schema in (ChatRows("conversations"), SHARE_GPT):
        with pytest.raises(BadRow, match="not a list of messages"):
            schema.example({"conversations": messages, "system": "Be brief."})


def test_messages_in_the_column_of_turns_stay_messages() -> None:
    assert SHARE_GPT.example({"conversations": a_chat()}) == a_conversation(a_chat())


def test_the_weight_of_a_turn_is_kept() -> None:
    chat = [*QUESTION, {"from": "human", "value": "+1?"}, {"from": "gpt", "value": "6", "weight": 0}, *QUESTION]
    assert SHARE_GPT.example({"conversations": chat}).learned == (False, True, False, False, False, True)


def test_function_calls_and_tools_are_kept() -> None:
    call = {"name": "add", "arguments": {"a": 2}}
    chat = [*turns(("human", "2+2?"), ("function_call", json.dumps(call)), ("observation", "4"), ("gpt", "4"))]
    found = SHARE_GPT.example({"conversations": chat, "tools": json.dumps([{"name": "add", "parameters": {}}])})
    assert [message["role"] for message in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert found.messages[1]["tool_calls"] == [{"type": "function", "function": call}]
    assert found.tools == [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"conversations": "x"}, "column 'conversations' contains a string, not a list of messages"),
        ({"conversations": []}, "column 'conversations' is an empty list"),
        ({"conversations": turns(("human", "a"))}, "no message is from the assistant"),
        ({"conversations": turns(("alien", "a"))}, "turn 1 is from 'alien'; use one of human, user, gpt,"),
        ({"conversations": [{"from": 7, "value": "a"}]}, "turn 1 is from nobody"),
        ({"conversations": [{**QUESTION[0], "role": "user"}]}, "turn 1 is from 'human'; use one of"),
        ({"conversations": [QUESTION[0], {"from": "gpt", "text": "a"}]}, "the value of turn 2 contains null"),
        ({"conversations": turns(("human", "a"), ("gpt", " "))}, "the value of turn 2 is empty"),
        ({"conversations": turns(("function_call", "{"))}, "the function calls in turn 1 are not valid JSON"),
        (
            {"conversations": turns(("system", "a"), ("human", "a"), ("gpt", "b")), "system": "c"},
            "the row has a system message twice, in column 'system' and in the conversation; remove one",
        ),
        ({"conversations": QUESTION, "system": 7}, "column 'system' contains a number, not text"),
        ({"id": 1}, "column 'conversations' is missing"),
    ],
)
def test_an_invalid_row_of_turns_is_rejected(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRow) as found:
        SHARE_GPT.example(row)
    assert str(found.value).startswith(problem)


@pytest.mark.parametrize("without_input", [{}, {"input": ""}, {"input": None}, {"input": " "}])
def test_an_instruction_becomes_a_conversation(without_input: dict[str, Any]) -> None:
    row = {"instruction": "2+2?", "output": "4", **without_input}
    assert ALPACA.example(row) == a_conversation(a_chat())


def test_the_input_follows_the_instruction() -> None:
    row = {
        "instruction": "Translate.",
        "input": "un",
        "output": "one",
        "system": "Be brief.",
        "history": [["2+2?", "4"]],
    }
    assert ALPACA.example(row) == a_conversation(
        a_chat(
            ("system", "Be brief."),
            ("user", "2+2?"),
            ("assistant", "4"),
            ("user", "Translate.\n\nun"),
            ("assistant", "one"),
        )
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"output": "b"}, "column 'instruction' is missing"),
        ({"instruction": "a", "output": ""}, "column 'output' is empty"),
        ({"instruction": "a", "input": 7, "output": "b"}, "column 'input' contains a number, not text"),
        (
            {"instruction": "a", "output": "b", "history": "x"},
            "column 'history' contains a string, not a list",
        ),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "item 1 of column 'history' is not a pair"),
        ({"instruction": "a", "output": "b", "history": [["x", 1]]}, "item 1 of column 'history' contains a number"),
    ],
)
def test_an_invalid_row_of_instructions_is_rejected(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRow) as found:
        ALPACA.example(row)
    assert str(found.value).startswith(problem)


class TestSingleTurns:
    """Rows of a search for a prompt."""

    TURN = ({"role": "user", "content": "what is it"}, {"role": "assistant", "content": "fruit"})

    def read(self, *messages: dict[str, str], **values: Any) -> Conversation:
        return SingleTurns(ChatRows("messages")).example({"messages": list(messages), **values})

    def test_one_question_and_its_answer_is_read(self) -> None:
        assert [message["role"] for message in self.read(*self.TURN).messages] == ["user", "assistant"]

    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_a_system_message_goes_into_the_candidates(self, role: str) -> None:
        with pytest.raises(BadRow, match=rf"\w+, user, assistant: remove its {role} message, and write its text"):
            self.read({"role": role, "content": "be brief"}, *self.TURN)

    def test_several_turns_are_split(self) -> None:
        with pytest.raises(BadRow, match="user, assistant, user, assistant: split the conversation into rows of one"):
            self.read(*self.TURN, *self.TURN)

    def test_tools_are_left_out(self) -> None:
        tools = [{"type": "function", "function": {"name": "find", "description": "", "parameters": {}}}]
        with pytest.raises(BadRow, match="and this one has tools: remove the row"):
            self.read(*self.TURN, tools=tools)
