"""Messages of OpenAI's fine-tuning files: what is accepted as it is, and what is refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.tasks.instruction_tuning.messages import conversation

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
ANSWER = {"role": "assistant", "content": "It rains."}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
SCHEMA = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def refusal(messages: list[Any], tools: object = None) -> str:
    with pytest.raises(BadRow) as problem:
        conversation(messages, "messages", tools)
    return str(problem.value)


def test_a_weight_of_zero_is_not_learned() -> None:
    chat = conversation([QUESTION, {**ANSWER, "weight": 0}, QUESTION, {**ANSWER, "weight": 1}], "messages")
    assert chat.learned == (False, False, False, True)
    assert chat.last_learned == 3
    assert all("weight" not in message for message in chat.messages)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({**ANSWER, "weight": 0.5}, "message 2 has the weight 0.5; use the number 0 or 1"),
        ({**ANSWER, "weight": "0"}, 'message 2 has the weight "0"; use the number 0 or 1'),
        (
            {**ANSWER, "weight": 0},
            "every message of the assistant has the weight 0, so there is no answer to learn or to measure",
        ),
        ({**QUESTION, "weight": 1}, "message 2 is from the user and has the weight 1; only assistant messages are"),
    ],
)
def test_other_weights_are_refused(message: dict[str, Any], sentence: str) -> None:
    assert refusal([QUESTION, message, *([ANSWER] if message["role"] == "user" else [])]).startswith(sentence)


def test_tool_calls_of_openai_get_their_arguments_as_an_object() -> None:
    messages = [QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, ANSWER]
    chat = conversation(messages, "messages", [{"type": "function", "function": SCHEMA}])
    assert chat.messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
    }
    assert chat.messages[2] == RESULT
    assert chat.learned == (False, True, False, True)
    assert chat.tools == [{"type": "function", "function": SCHEMA}]


def test_the_older_format_with_functions_is_converted() -> None:
    messages = [
        QUESTION,
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "rain"},
        ANSWER,
    ]
    chat = conversation(messages, "messages", [SCHEMA])
    assert chat.messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "weather", "arguments": {}}}]
    assert chat.messages[2] == {"role": "tool", "content": "rain", "name": "weather"}
    assert chat.tools == [{"type": "function", "function": SCHEMA}]


def test_tools_may_be_json_as_in_parquet_files() -> None:
    assert conversation([QUESTION, ANSWER], "messages", json.dumps([SCHEMA])).tools == [
        {"type": "function", "function": SCHEMA}
    ]


def test_a_single_text_part_is_its_text_and_several_stay_parts() -> None:
    one = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    two = {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}
    chat = conversation([one, two, ANSWER], "messages")
    assert chat.messages[0]["content"] == "a"
    assert chat.messages[1]["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_one_name(key: str) -> None:
    chat = conversation([QUESTION, {**ANSWER, key: "Clouds."}], "messages")
    assert chat.messages[1] == {**ANSWER, "reasoning_content": "Clouds."}


def test_other_keys_are_kept_for_the_template_and_empty_ones_are_not() -> None:
    developer = {"role": "developer", "content": "Be brief.", "name": "ops", "refusal": None, "annotations": []}
    chat = conversation([developer, QUESTION, {**ANSWER, "mood": "glad"}], "messages")
    assert chat.messages[0] == {"role": "developer", "content": "Be brief.", "name": "ops"}
    assert chat.messages[2]["mood"] == "glad"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "message 1 contains a part of type 'image_url'; only text can be trained on",
        ),
        ({"role": "user", "content": []}, "the content of message 1 is an empty list; fill it in or remove the row"),
        ({**QUESTION, "audio": {"id": "a"}}, "message 1 has the key 'audio', which cannot be trained on; remove it"),
        ({**ANSWER, "index": 0}, "message 1 has the key 'index', which cannot be trained on; remove it"),
        (
            {**ANSWER, "train": False},
            "message 1 has the key 'train', which cannot be trained on; remove it, or set weight to 0 where an answer "
            "is not learned",
        ),
        ({**QUESTION, "tool_calls": [CALL]}, "message 1 is from the user and calls a tool; only the assistant calls"),
        ({"role": "assistant", "tool_calls": "x"}, "'tool_calls' of message 1 is a string, not a list; correct the"),
        ({"role": "assistant", "tool_calls": [1]}, "a tool call of message 1 is a number, not an object; correct the"),
        (
            {"role": "assistant", "tool_calls": [{"type": "custom"}]},
            "a tool call of message 1 has the type 'custom'; only 'function' can be trained on",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "the arguments in a tool call of message 1 are not valid JSON; correct the row",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            "the arguments in a tool call of message 1 are a list, not an object; correct the row",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": "f"}]},
            "the function in a tool call of message 1 is a string, not an object; correct the row",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(message: dict[str, Any], sentence: str) -> None:
    assert refusal([message, ANSWER]).startswith(sentence)


@pytest.mark.parametrize(
    ("tools", "sentence"),
    [
        ("{", "the tools are not valid JSON; correct the row"),
        ({"name": "f"}, "the tools are an object, not a list; correct the row"),
        ([SCHEMA, "f"], "tool 2 is a string, not an object with a function; correct the row"),
        ([{"type": "function"}], "the name of tool 1 contains null, not text; correct the row"),
    ],
)
def test_invalid_tools_are_refused(tools: object, sentence: str) -> None:
    assert refusal([QUESTION, ANSWER], tools) == sentence


def test_the_content_depends_on_tools_and_weights() -> None:
    plain = conversation([QUESTION, ANSWER, QUESTION, ANSWER], "messages")
    with_tools = conversation([QUESTION, ANSWER, QUESTION, ANSWER], "messages", [SCHEMA])
    weighted = conversation([QUESTION, {**ANSWER, "weight": 0}, QUESTION, ANSWER], "messages")
    assert len({plain.content, with_tools.content, weighted.content}) == 3
