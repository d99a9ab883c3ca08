"""What chat templates make of conversations: every part is rendered, learned or masked as the row says, or refused."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.patches.transformers import fix_template_date
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.instruction_tuning import CHAT_TEMPLATE
from finetune_trainer.tasks.instruction_tuning.messages import Message, conversation
from finetune_trainer.tasks.instruction_tuning.rendering import ChatRenderer
from finetune_trainer.tasks.instruction_tuning.tokens import ChatTokeniser
from tests.trainer.prepare_fixtures import PLAIN_TEMPLATE, a_chat_model

QUESTION = {"role": "user", "content": "Is it raining?"}
ANSWER = {"role": "assistant", "content": "It is."}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Orléans", "days": 2}'}}
CALLS = [QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
SCHEMA = {"type": "function", "function": {"name": "look", "description": "Look outside.", "parameters": {}}}
HEAD = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
TAIL = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    + HEAD
    + "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m['content'] }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>"
    "{% endfor %}" + TAIL
)
JSON_TEMPLATE = TOOLS_TEMPLATE.replace("arguments | tojson", "arguments")
"""A template that writes the arguments as they are, so that they must be JSON already."""
PARTS_TEMPLATE = HEAD + "{% for part in m['content'] %}{{ part.text }}{% endfor %}" + TAIL
MARKED_WITHOUT_END = HEAD + (
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}"
    "{% endif %} " + TAIL
)
WITHOUT_END = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
END_OF_CHAT = WITHOUT_END.replace(
    "\n{% endfor %}", "\n{% endfor %}{% if not add_generation_prompt %}<|im_end|>{% endif %}"
)

SYSTEM_IN_THE_LAST_QUESTION = (
    "{% set rest = messages if messages[0]['role'] != 'system' else messages[1:] %}{% for m in rest %}"
    "{% if m['role'] == 'assistant' %}{{ m['content'] }}<|im_end|>{% else %}<|im_start|>"
    "{% if m == (rest | selectattr('role', 'equalto', 'user') | list)[-1] and rest != messages %}"
    "{{ messages[0]['content'] }}\n{% endif %}{{ m['content'] }}\n{% endif %}{% endfor %}"
)
"""A template as of Mistral 7B Instruct v0.3."""


def tokenizer_of(tmp_path: Path, template: str | dict[str, str], **options: Any) -> PreTrainedTokenizerFast:
    return load_base_tokenizer(
        a_chat_model(tmp_path / "model", template, **options), "file:///model", template=CHAT_TEMPLATE
    )


def learned(tokenizer: PreTrainedTokenizerFast, messages: list[Message], tools: object = None) -> str:
    """The text of all labels.

    Raises:
        BadRow: The conversation is invalid.
    """
    batch = ChatTokeniser(tokenizer, 10_000).encode([conversation(messages, "messages", tools)])
    for problem in batch.problems.values():
        raise problem
    return str(tokenizer.decode([label for label in batch.columns["labels"][0].as_py() if label != IGNORED_LABEL]))


def refusal(tmp_path: Path, template: str, messages: list[Message], tools: object = None) -> str:
    with pytest.raises(BadRow) as problem:
        learned(tokenizer_of(tmp_path, template), messages, tools)
    return str(problem.value)


def test_an_answer_of_weight_zero_is_rendered_but_not_learned(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, PLAIN_TEMPLATE)
    messages = [QUESTION, {"role": "assistant", "content": "No.", "weight": 0}, QUESTION, {**ANSWER, "weight": 1}]
    assert learned(tokenizer, messages) == "It is.<|im_end|>"
    assert "No." in ChatRenderer(tokenizer).render(conversation(messages, "messages")).text


def test_of_an_answer_that_begins_the_conversation_only_the_answer_is_learned(tmp_path: Path) -> None:
    own_system = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
    tokenizer = tokenizer_of(tmp_path, own_system + PLAIN_TEMPLATE)
    greeting = {"role": "assistant", "content": "Hello."}
    assert learned(tokenizer, [greeting, QUESTION, ANSWER]) == "Hello.<|im_end|>It is.<|im_end|>"
    batch = ChatTokeniser(tokenizer, 10_000).encode([conversation([greeting], "messages")])
    prompt = batch.columns["input_ids"][0].as_py()[: batch.columns["prompt_length"][0].as_py()]
    assert tokenizer.decode(prompt) == "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_that_begins_the_conversation_is_refused_without_a_prompt(tmp_path: Path) -> None:
    messages = [{"role": "assistant", "content": "Hello."}]
    without_prompt = PLAIN_TEMPLATE.partition("{% if add_generation_prompt %}")[0]
    assert "begins with an answer" in refusal(tmp_path / "plain", without_prompt, messages)
    marked = "{% for m in messages %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% endfor %}"
    assert refusal(tmp_path / "marked", marked, messages).startswith("nothing is before the answer")


def test_an_answer_is_refused_if_the_template_moves_the_system_message_behind_it(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    more = {"role": "user", "content": "And snowing?"}
    tokenizer = tokenizer_of(tmp_path, SYSTEM_IN_THE_LAST_QUESTION)
    assert learned(tokenizer, [system, QUESTION, ANSWER]) == "It is.<|im_end|>"
    with pytest.raises(BadRow, match="changes what is before the answer in message 3 when the conversation goes on"):
        learned(tokenizer, [system, QUESTION, ANSWER, more, ANSWER])
    context = ANSWER | {"weight": 0}
    assert learned(tokenizer, [system, QUESTION, context, more, {**ANSWER, "content": "No."}]) == "No.<|im_end|>"


def test_an_evaluated_answer_is_the_last_one_that_is_learned(tmp_path: Path) -> None:
    messages = [QUESTION, ANSWER, QUESTION, {"role": "assistant", "content": "No.", "weight": 0}]
    batch = ChatTokeniser(tokenizer_of(tmp_path, PLAIN_TEMPLATE), 999).encode([conversation(messages, "messages")])
    assert batch.columns["reference"].to_pylist() == ["It is."]
    assert batch.columns["prompt"].to_pylist() == ["Is it raining?"]


@pytest.mark.parametrize("template", [TOOLS_TEMPLATE, JSON_TEMPLATE], ids=["tojson", "as it is"])
def test_tools_and_calls_are_rendered(tmp_path: Path, template: str) -> None:
    tokenizer = tokenizer_of(tmp_path, template)
    assert learned(tokenizer, CALLS, [SCHEMA]) == '<call>look {"city": "Orléans", "days": 2}</call><|im_end|>'
    text = ChatRenderer(tokenizer).render(conversation(CALLS, "messages", [SCHEMA])).text
    assert '"description": "Look outside."' in text


def test_conversations_with_tools_have_a_template_of_their_own(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, {"default": PLAIN_TEMPLATE, "tool_use": TOOLS_TEMPLATE})
    assert learned(tokenizer, [QUESTION, ANSWER]) == "It is.<|im_end|>"
    assert learned(tokenizer, CALLS, [SCHEMA]) == '<call>look {"city": "Orléans", "days": 2}</call><|im_end|>'


def test_several_templates_without_a_default_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match=r"has several chat templates \(chat, tool_use\) and none is named default"):
        tokenizer_of(tmp_path, {"chat": PLAIN_TEMPLATE, "tool_use": TOOLS_TEMPLATE})


def test_a_reference_with_a_tool_call_is_what_the_template_writes(tmp_path: Path) -> None:
    chat = conversation(CALLS, "messages", [SCHEMA])
    batch = ChatTokeniser(tokenizer_of(tmp_path, TOOLS_TEMPLATE), 999).encode([chat])
    assert batch.columns["reference"].to_pylist() == ['<call>look {"city": "Orléans", "days": 2}</call>']


def test_reasoning_is_learned(tmp_path: Path) -> None:
    messages = [QUESTION, {**ANSWER, "reasoning_content": "Clouds."}]
    assert learned(tokenizer_of(tmp_path, TOOLS_TEMPLATE), messages) == "<think>Clouds.</think>It is.<|im_end|>"


def test_several_text_parts_are_rendered_by_a_template_for_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Is it "}, {"type": "text", "text": "raining?"}]
    tokenizer = tokenizer_of(tmp_path, PARTS_TEMPLATE)
    rendered = ChatRenderer(tokenizer).render(conversation([{"role": "user", "content": parts}, ANSWER], "messages"))
    assert "<|im_start|>user\nIs it raining?<|im_end|>" in rendered.text
    assert "<|im_start|>assistant\nIt is.<|im_end|>" in rendered.text


@pytest.mark.parametrize(
    ("messages", "tools", "sentence"),
    [
        ([QUESTION, ANSWER], [SCHEMA], "the model's chat template leaves out tool 1; use another chat template, or"),
        (CALLS, None, "the model's chat template leaves out a tool call of message 2; use another chat template, or"),
        (
            [QUESTION, {**ANSWER, "reasoning_content": "Clouds."}],
            None,
            "the model's chat template leaves out the reasoning of message 2; use another chat template, or remove it",
        ),
        (
            [{**QUESTION, "name": "Zoë"}, ANSWER],
            None,
            "the model's chat template leaves out 'name' of message 1; use another chat template, or remove it from",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ANSWER],
            None,
            "the model's chat template does not support the 2 text parts of message 1; join them to one text",
        ),
    ],
    ids=["tools", "call", "reasoning", "name", "parts"],
)
def test_what_the_template_leaves_out_is_refused(
    tmp_path: Path, messages: list[Message], tools: object, sentence: str
) -> None:
    assert refusal(tmp_path, PLAIN_TEMPLATE, messages, tools).startswith(sentence)


def test_the_part_of_a_tool_that_the_template_leaves_out_is_named(tmp_path: Path) -> None:
    template = TOOLS_TEMPLATE.replace("tools | tojson", "tools[0].function.name")
    assert refusal(tmp_path, template, [QUESTION, ANSWER], [SCHEMA]).startswith(
        "the model's chat template leaves out 'description' of tool 1, 'look'; use another chat template, or"
    )


def test_special_tokens_inside_answers_are_counted(tmp_path: Path) -> None:
    messages = [QUESTION, {**ANSWER, "reasoning_content": "Clouds.<|im_end|>"}, QUESTION, ANSWER]
    tokenizer = tokenizer_of(tmp_path, TOOLS_TEMPLATE)
    tokeniser = ChatTokeniser(tokenizer, 999)
    tokeniser.encode([conversation(messages, "messages")])
    assert tokeniser.answers.ends == {tokenizer.eos_token_id: 2}
    assert tokeniser.answers.inside == {tokenizer.eos_token_id: 1}


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_message_whose_role_the_template_does_not_know_is_refused(tmp_path: Path, role: str) -> None:
    template = PLAIN_TEMPLATE.replace("{% for m in messages %}", f"{{% for m in messages if m['role'] != '{role}' %}}")
    messages = [{"role": role, "content": "Be brief."}, QUESTION, ANSWER]
    assert refusal(tmp_path, template, messages) == (
        f"the model's chat template changes or leaves out message 1, which is from the {role}; use another chat "
        "template, or another role"
    )


def test_the_end_of_turn_is_learned_where_the_template_marks_only_the_answer(tmp_path: Path) -> None:
    messages = [QUESTION, ANSWER, QUESTION, {"role": "assistant", "content": "Yes."}]
    tokenizer = tokenizer_of(tmp_path, MARKED_WITHOUT_END)
    assert learned(tokenizer, messages) == "It is. <|im_end|>Yes. <|im_end|>"


@pytest.mark.parametrize(
    ("template", "last"),
    [(WITHOUT_END, "Yes.<|im_end|>"), (END_OF_CHAT, "Yes.\n<|im_end|>")],
    ids=["no end", "end of chat only"],
)
def test_an_answer_without_end_gets_the_end_of_sequence_token_as_label(
    tmp_path: Path, template: str, last: str
) -> None:
    tokenizer = tokenizer_of(tmp_path, template)
    tokeniser = ChatTokeniser(tokenizer, 999)
    messages = [QUESTION, ANSWER, QUESTION, {"role": "assistant", "content": "Yes."}]
    batch = tokeniser.encode([conversation(messages, "messages")])
    ids, labels = batch.columns["input_ids"][0].as_py(), batch.columns["labels"][0].as_py()
    expected = "user: Is it raining?\nassistant: It is.\nuser: Is it raining?\nassistant: Yes.\n"
    assert tokenizer.decode(ids).removesuffix("<|im_end|>") == expected
    assert tokenizer.decode([label for label in labels if label != IGNORED_LABEL]) == "It is.<|im_end|>" + last
    assert dict(tokeniser.answers.ends) == {tokenizer.eos_token_id: 2}


def test_a_template_and_a_tokenizer_without_any_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailure) as failure:
        learned(tokenizer_of(tmp_path, WITHOUT_END, eos=None), [QUESTION, ANSWER])
    assert failure.value.reason is Reason.BAD_CONFIGURATION
    assert failure.value.message == (
        "The chat template of the model writes no token after an answer, and its tokenizer has no end-of-sequence "
        "token, so no answer would end: add eos_token to tokenizer_config.json"
    )


def test_a_template_that_asks_for_the_date_gets_the_given_one(tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %B %Y') }}\n" + PLAIN_TEMPLATE
    tokenizer = tokenizer_of(tmp_path, template)
    assert fix_template_date(template, date(2024, 2, 29))
    assert not fix_template_date(PLAIN_TEMPLATE, date(2024, 2, 29))
    rendered = ChatRenderer(tokenizer).render(conversation([QUESTION, ANSWER], "messages"))
    assert rendered.text.startswith("29 February 2024\n")


@pytest.mark.parametrize(
    "fault", ["{{ 1 // 0 }}", "{{ messages[99].content.x }}", "{{ messages.pop() }}", "{{ [] + 1 }}"]
)
def test_a_template_that_fails_is_an_invalid_row(tmp_path: Path, fault: str) -> None:
    assert refusal(tmp_path, fault + PLAIN_TEMPLATE, [QUESTION, ANSWER]).startswith(
        "the model's chat template rejects the conversation ("
    )
