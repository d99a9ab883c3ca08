"""Conversations: which tokens have labels, with and without ``{% generation %}`` in the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.modelling.tokenizer import load_base_tokenizer
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.instruction_tuning import CHAT_TEMPLATE
from finetune_trainer.tasks.instruction_tuning.messages import Message, conversation
from finetune_trainer.tasks.instruction_tuning.tokens import ChatTokeniser
from tests.trainer.prepare_fixtures import (
    MARKED_TEMPLATE,
    PLAIN_TEMPLATE,
    THINKING_TEMPLATE,
    a_chat_model,
    a_context,
    json_lines,
    prepared,
    refused,
    stored,
)
from tests.trainer.tiny_models import save_llama

TASK = {"type": "InstructionTuning"}


def chat(*contents: str, system: str | None = None) -> list[Message]:
    """Alternating questions and answers."""
    first = [{"role": "system", "content": system}] if system else []
    turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]
    return [*first, *turns]


CHATS = [
    chat("2+2?", "4"),
    chat("2+2?", "4", "and 1 more?", "5, naïve 包裹 👍🏽", system="Be brief."),
    chat(" spaced ", "  kept  \n", "again", "a\n\nb"),
    chat("say 4", "4", "say 4", "4"),
]


def tokenizer_of(tmp_path: Path, template: str | None) -> PreTrainedTokenizerFast:
    return load_base_tokenizer(a_chat_model(tmp_path / "model", template), "file:///model", template=CHAT_TEMPLATE)


def encoded(tokenizer: PreTrainedTokenizerFast, messages: list[Message], tools: object = None) -> dict[str, Any]:
    """The columns of one tokenised conversation.

    Raises:
        BadRow: The conversation is invalid.
    """
    batch = ChatTokeniser(tokenizer, 10_000).encode([conversation(messages, "messages", tools)])
    for problem in batch.problems.values():
        raise problem
    return {name: column[0].as_py() for name, column in batch.columns.items()}


def labelled_texts(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any]) -> list[str]:
    """The text of each run of tokens with labels."""
    runs: list[list[int]] = []
    for position, label in enumerate(row["labels"]):
        if label == IGNORED_LABEL:
            continue
        assert label == row["input_ids"][position]
        if position == 0 or row["labels"][position - 1] == IGNORED_LABEL:
            runs.append([])
        runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [MARKED_TEMPLATE, PLAIN_TEMPLATE], ids=["marked", "plain"])
@pytest.mark.parametrize("conversation", CHATS)
def test_labels_cover_every_answer_and_its_end_token(
    tmp_path: Path, template: str, conversation: list[Message]
) -> None:
    tokenizer = tokenizer_of(tmp_path, template)
    answers = [message["content"] + "<|im_end|>" for message in conversation if message["role"] == "assistant"]
    assert labelled_texts(tokenizer, encoded(tokenizer, conversation)) == answers


@pytest.mark.parametrize("conversation", CHATS)
def test_both_kinds_of_templates_give_the_labels_of_transformers(tmp_path: Path, conversation: list[Message]) -> None:
    marked = tokenizer_of(tmp_path / "marked", MARKED_TEMPLATE)
    row = encoded(marked, conversation)
    assert row == encoded(tokenizer_of(tmp_path / "plain", PLAIN_TEMPLATE), conversation)
    expected = marked.apply_chat_template(conversation, return_assistant_tokens_mask=True, return_dict=True)
    assert row["input_ids"] == expected["input_ids"]
    assert [label != IGNORED_LABEL for label in row["labels"]] == [bool(bit) for bit in expected["assistant_masks"]]


@pytest.mark.parametrize("template", [MARKED_TEMPLATE, PLAIN_TEMPLATE], ids=["marked", "plain"])
@pytest.mark.parametrize("conversation", CHATS)
def test_the_prompt_length_is_that_of_the_generation_prompt(
    tmp_path: Path, template: str, conversation: list[Message]
) -> None:
    tokenizer = tokenizer_of(tmp_path, template)
    row = encoded(tokenizer, conversation)
    prompt = tokenizer.apply_chat_template(conversation[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert row["input_ids"][: row["prompt_length"]] == prompt
    assert row["reference"] == conversation[-1]["content"]


def test_the_prompt_column_is_readable(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, PLAIN_TEMPLATE)
    assert encoded(tokenizer, CHATS[0])["prompt"] == "2+2?"
    assert (
        encoded(tokenizer, CHATS[1])["prompt"] == "system: Be brief.\n\nuser: 2+2?\n\nassistant: 4\n\nuser: and 1 more?"
    )


def test_a_template_may_render_the_last_answer_differently(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, THINKING_TEMPLATE)
    first, last = labelled_texts(tokenizer, encoded(tokenizer, CHATS[3]))
    assert first == "4<|im_end|>"
    assert last == "\n</think>\n\n4<|im_end|>"


def test_an_answer_with_thoughts_that_the_template_omits_is_rejected(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, PLAIN_TEMPLATE.replace("m['content']", "m['content'].split('</think>') | last"))
    with pytest.raises(BadRow, match="changes or leaves out the answer in message 2"):
        encoded(tokenizer, chat("a", "<think>hm</think>b", "c", "d"))


def test_an_answer_that_the_template_strips_is_rejected(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, PLAIN_TEMPLATE.replace("m['content']", "m['content'] | trim"))
    with pytest.raises(BadRow, match="strips white space around the answer in message 2"):
        encoded(tokenizer, chat("a", "b\n"))
    assert labelled_texts(tokenizer, encoded(tokenizer, chat(" a ", "b"))) == ["b<|im_end|>"]


def test_a_template_that_rewrites_earlier_answers_is_rejected(tmp_path: Path) -> None:
    template = PLAIN_TEMPLATE.replace(
        "m['content']", "m['content'] if loop.last or m['role'] == 'user' else '(earlier)'"
    )
    with pytest.raises(BadRow, match="changes an answer, so it cannot be trained on"):
        encoded(tokenizer_of(tmp_path, template), chat("a", "b", "c", "d"))


def test_the_date_is_fixed_in_the_template_for_tools_as_well(tmp_path: Path) -> None:
    templates = {"default": PLAIN_TEMPLATE, "tool_use": "{{ strftime_now('%d %B %Y') }} {{ tools }}" + PLAIN_TEMPLATE}
    model = a_chat_model(tmp_path / "model", templates).as_uri()
    row = {"messages": CHATS[0], "tools": [{"type": "function", "function": {"name": "look"}}]}
    uri = json_lines(tmp_path / "a.jsonl", [row, *({"messages": chat(f"{number}?", "4")} for number in range(20))])
    context = a_context(tmp_path, model, TASK, {"train": {"uri": uri}})
    assert prepared(context)[1].template_date is not None
    saved = AutoTokenizer.from_pretrained(stored(context) / "tokenizer")
    assert saved.chat_template == templates


def test_a_template_that_marks_no_answer_is_rejected(tmp_path: Path) -> None:
    template = MARKED_TEMPLATE.replace("== 'assistant'", "== 'model'")
    model = a_chat_model(tmp_path / "model", template).as_uri()
    uri = json_lines(tmp_path / "a.jsonl", [{"messages": conversation} for conversation in CHATS])
    failure = refused(a_context(tmp_path, model, TASK, {"train": {"uri": uri}}))
    assert failure.reason is Reason.BAD_DATA
    assert failure.message == (
        f"{uri}:1: the model's chat template omits every answer; use another chat template (4 of 4 rows are invalid, "
        "100 %, also at :2, :3, :4; dataset.cleaning.dropInvalid allows 0 %)"
    )


def test_a_conversation_that_the_template_rejects_is_an_invalid_row(tmp_path: Path) -> None:
    rule = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('Begin with the user.') }}{% endif %}"
    tokenizer = tokenizer_of(tmp_path, rule + PLAIN_TEMPLATE)
    with pytest.raises(BadRow) as problem:
        encoded(tokenizer, CHATS[1])
    assert (
        str(problem.value)
        == "the model's chat template rejects the conversation (Begin with the user); correct the row"
    )


def test_a_model_without_template_uses_a_default_one(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, None)
    row = encoded(tokenizer, CHATS[1])
    assert labelled_texts(tokenizer, row) == ["4<|im_end|>", "5, naïve 包裹 👍🏽<|im_end|>"]
    assert tokenizer.decode(row["input_ids"]) == (
        "### system:\nBe brief.\n\n### user:\n2+2?\n\n### assistant:\n4<|im_end|>\n\n### user:\nand 1 more?\n\n"
        "### assistant:\n5, naïve 包裹 👍🏽<|im_end|>\n\n"
    )
    prompt = tokenizer.apply_chat_template(CHATS[1][:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert row["input_ids"][: row["prompt_length"]] == prompt


def test_a_tokenizer_without_template_and_end_token_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(StageFailure) as failure:
        load_base_tokenizer(
            a_chat_model(tmp_path / "model", None, eos=None), "hf://owner/model", template=CHAT_TEMPLATE
        )
    assert failure.value.reason is Reason.BAD_CONFIGURATION
    assert failure.value.message == (
        "The tokenizer of hf://owner/model has neither a chat template nor an end-of-sequence token, so it cannot end "
        "an answer: use a generative model, or add eos_token to tokenizer_config.json"
    )


@pytest.mark.parametrize("pairs", [False, True], ids=["messages", "prompt and completion"])
def test_prepare_of_messages_and_of_prompt_and_completion(tmp_path: Path, pairs: bool) -> None:
    questions = [(f"what is {number} + 1?", f"{number + 1}") for number in range(40)]
    rows = [{"prompt": a, "completion": b} if pairs else {"messages": chat(a, b)} for a, b in questions]
    uri = json_lines(tmp_path / "a.jsonl", rows)
    context = a_context(tmp_path, a_chat_model(tmp_path / "m", None).as_uri(), TASK, {"train": {"uri": uri}})
    result, report = prepared(context)
    assert sum(result.examples.values()) == 40
    assert result.labels is None
    assert report.max_sequence_length == 256
    tokenizer = AutoTokenizer.from_pretrained(str(stored(context) / "tokenizer"))
    seen = set()
    for split in ("train", "validation", "test"):
        table = open_split(stored(context), split)
        assert table.schema.names == ["input_ids", "labels", "prompt_length", "reference", "prompt", "source"]
        for row in table.to_pylist():
            assert (row["prompt"], row["reference"]) == questions[int(row["source"].split(":")[1]) - 1]
            assert row["input_ids"] == tokenizer.apply_chat_template(chat(row["prompt"], row["reference"]))["input_ids"]
            seen.add(row["prompt"])
    assert len(seen) == 40


def test_a_long_conversation_is_invalid_and_not_truncated(tmp_path: Path) -> None:
    rows = [{"messages": chat(f"question {number}", "answer")} for number in range(19)]
    rows.insert(4, {"messages": chat("long", "word " * 200)})
    uri = json_lines(tmp_path / "a.jsonl", rows)
    model = a_chat_model(tmp_path / "m", PLAIN_TEMPLATE, positions=64).as_uri()
    failure = refused(a_context(tmp_path / "1", model, TASK, {"train": {"uri": uri}}))
    assert failure.reason is Reason.BAD_DATA
    assert failure.message.startswith(f"{uri}:5: the conversation has ")
    assert failure.message.endswith(
        " tokens, more than the sequence length of 64; shorten it, or raise training.maxSequenceLength if the model "
        "supports more (1 of 20 rows is "
        "invalid, 5 %; dataset.cleaning.dropInvalid allows 0 %)"
    )
    dataset = {"train": {"uri": uri}, "cleaning": {"dropInvalid": 0.05}}
    result, report = prepared(a_context(tmp_path / "2", model, TASK, dataset))
    assert (result.invalid, sum(result.examples.values())) == (1, 19)
    assert [row.line for row in report.invalid_rows] == [5]


def test_the_message_names_the_first_invalid_row_whether_found_in_reading_or_tokenisation(tmp_path: Path) -> None:
    rows: list[Any] = [{"messages": chat(f"question {number}", "answer")} for number in range(4000)]
    rows[6] = {"messages": chat("long", "word " * 200)}
    rows[3000] = {"messages": chat("no answer")}
    uri = json_lines(tmp_path / "a.jsonl", rows)
    model = a_chat_model(tmp_path / "m", PLAIN_TEMPLATE, positions=64).as_uri()
    failure = refused(a_context(tmp_path, model, TASK, {"train": {"uri": uri}}))
    assert failure.message.startswith(f"{uri}:7: the conversation has ")
    assert "2 of 4000 rows are invalid" in failure.message


def test_text_that_the_tokenizer_does_not_know_is_reported(tmp_path: Path) -> None:
    save_llama(tmp_path / "m")
    rows = [{"prompt": f"what is it {word}", "completion": f"it is {word}"} for word in ("rain", "zebra", "hail")]
    uri = json_lines(tmp_path / "a.jsonl", rows * 20)
    dataset = {
        "train": {"uri": uri},
        "cleaning": {"deduplicate": "None"},
        "test": {"fraction": 0.3, "minimumExamples": 1},
    }
    result, _ = prepared(a_context(tmp_path, (tmp_path / "m").as_uri(), TASK, dataset))
    # One word of each conversation of the second kind, in prompt and answer.
    assert "% of the tokens are unknown to the tokenizer of the model" in " ".join(result.notes)
