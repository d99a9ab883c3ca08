"""Rows of PreferenceTuning in the prepare stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.trainer.prepare_fixtures import (
    PLAIN_TEMPLATE,
    a_chat_model,
    a_context,
    json_lines,
    prepared,
    refused,
    stored,
)

PAIR = {"prompt": "Say rain.", "chosen": "It rains.", "rejected": "no"}
KEEP = {"cleaning": {"deduplicate": "None"}}


def a_model(directory: Path, backend: Tokenizer, **special: str) -> Path:
    """A model without a chat template, with the given tokenizer."""
    a_chat_model(directory, None)
    for path in directory.glob("tokenizer*"):
        path.unlink()
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(directory)
    return directory


def word_model(directory: Path, words: list[str], **special: str) -> Path:
    """A model whose tokens are words."""
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", "<s>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return a_model(directory, backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", **special)


def same_splits(root: Path, rows: list[dict[str, Any]], **dataset: Any) -> dict[str, Any]:
    """All splits with the same rows."""
    uri = json_lines(root / "rows.jsonl", rows)
    return {
        "train": {"uri": uri},
        "validation": {"uri": uri},
        "test": {"uri": uri, "minimumExamples": 1},
        **KEEP,
        **dataset,
    }


def a_job(
    root: Path, model: Path, rows: list[dict[str, Any]], loss: str = "DPO", length: int = 64, **dataset: Any
) -> Any:
    return a_context(
        root,
        model.as_uri(),
        {"type": "PreferenceTuning"},
        same_splits(root, rows, **dataset),
        method={"type": "LoRA", "preference": {"loss": loss}},
        training={"maxSequenceLength": length},
    )


def rows_of(context: Any) -> list[dict[str, Any]]:
    prepared(context)
    rows: list[dict[str, Any]] = pa.ipc.open_file(str(stored(context) / "train.arrow")).read_all().to_pylist()
    return rows


def tokens_of(row: dict[str, Any]) -> list[list[int]]:
    return [row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]]


def test_prompt_has_the_same_tokens_where_an_answer_would_merge_with_it(tmp_path: Path) -> None:
    names = ["<unk>", "<pad>", "</s>", "Q", ":", " ", "$", "4", "6", " $", ": ", "46"]
    vocabulary = {token: index for index, token in enumerate(names)}
    merges = [(" ", "$"), (":", " "), ("4", "6")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    model = a_model(tmp_path / "model", backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    rows = rows_of(a_job(tmp_path, model, [{"prompt": "Q: ", "chosen": "46", "rejected": "$46"}]))
    assert tokens_of(rows[0]) == [[3, 10], [11, 2], [6, 11, 2]]


@pytest.mark.parametrize("begins", [False, True])
def test_a_long_prompt_loses_its_beginning_for_both_answers(tmp_path: Path, begins: bool) -> None:
    words = [f"p{index}" for index in range(40)]
    model = word_model(tmp_path / "model", [*words, "good", "bad"], **({"bos_token": "<s>"} if begins else {}))
    if begins:
        add_begin(model)
    pairs = [
        {"prompt": " ".join(words), "chosen": "good good good", "rejected": "bad bad"},
        {"prompt": "p0 p1", "chosen": "good", "rejected": "bad"},
        {"prompt": " ".join(words[:29]), "chosen": "good good good", "rejected": "bad bad bad bad"},
    ]
    context = a_job(tmp_path, model, pairs, length=32)
    rows = rows_of(context)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    first = ["<s>"] if begins else []
    prompts = [tokenizer.convert_ids_to_tokens(row["prompt_ids"]) for row in rows]
    assert prompts == [first + words[12 + begins :], [*first, "p0", "p1"], first + words[2 + begins : 29]]
    end = tokenizer.eos_token_id
    assert all(row[answer][-1] == end for row in rows for answer in ("chosen_ids", "rejected_ids"))
    report = json.loads((stored(context) / "data.json").read_text())
    assert report["splits"]["train"]["truncated"] == 2


def add_begin(model: Path) -> None:
    """Let the tokenizer begin each text with its beginning-of-sequence token."""
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_file(str(model / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    backend.save(str(model / "tokenizer.json"))


def test_an_answer_without_room_for_a_prompt_is_refused(tmp_path: Path) -> None:
    model = word_model(tmp_path / "model", ["p", "good", "bad"])
    failure = refused(a_job(tmp_path, model, [{"prompt": "p", "chosen": "good " * 8, "rejected": "bad"}], length=8))
    assert "rows.jsonl:1: " in failure.message
    assert "leaves no room for the prompt in the sequence length of 8" in failure.message


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (PAIR | {"rejected": "It rains."}, "'chosen' and 'rejected' are the same answer, up to white space around it"),
        (
            PAIR | {"rejected": "It rains.\n"},
            "'chosen' and 'rejected' are the same answer, up to white space around it",
        ),
        (PAIR | {"chosen": ""}, "column 'chosen' is empty"),
        (PAIR | {"chosen": 3}, "column 'chosen' contains a number, neither a text nor a list of messages"),
        ({"prompt": "Say rain.", "chosen": "It rains."}, "column 'rejected' is missing"),
        (PAIR | {"prompt": []}, "column 'prompt' is an empty list"),
        (
            PAIR | {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "a message of the assistant is before the answer",
        ),
        (PAIR | {"chosen": [{"role": "user", "content": "It rains."}]}, "no message is from the assistant"),
        (
            {"prompt": "other"}
            | {
                name: [{"role": "user", "content": "Say rain."}, {"role": "assistant", "content": name}]
                for name in ("chosen", "rejected")
            },
            "column 'prompt' is not in the conversation of column 'chosen'",
        ),
        (
            {
                name: [{"role": "user", "content": f"Say {name}."}, {"role": "assistant", "content": name}]
                for name in ("chosen", "rejected")
            },
            "differ before their last message",
        ),
        ({"chosen": "a", "rejected": "b"}, "column 'prompt' is missing"),
    ],
)
def test_rows_that_are_no_pair_are_invalid(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    model = a_chat_model(tmp_path / "model", PLAIN_TEMPLATE)
    rows = [PAIR, row] if "prompt" in row else [row]
    failure = refused(a_job(tmp_path, model, rows))
    assert f"rows.jsonl:{len(rows)}: " in failure.message
    assert problem in failure.message


def test_pairs_of_the_same_unknown_tokens_are_invalid(tmp_path: Path) -> None:
    model = word_model(tmp_path / "model", ["p", "good"])
    failure = refused(a_job(tmp_path, model, [{"prompt": "p", "chosen": "new", "rejected": "other"}]))
    assert "both answers have the same tokens for the model" in failure.message


def test_texts_messages_and_whole_conversations_are_the_same_pair(tmp_path: Path) -> None:
    model = a_chat_model(tmp_path / "model", PLAIN_TEMPLATE)
    user, good, bad = (
        {"role": role, "content": text}
        for role, text in (("user", "Say rain."), ("assistant", "It rains."), ("assistant", "no"))
    )
    forms = [
        PAIR,
        {"prompt": [user], "chosen": [good], "rejected": [bad]},
        {"prompt": [user], "chosen": "It rains.", "rejected": "no"},
        {"prompt": "Say rain.", "chosen": [user, good], "rejected": [user, bad]},
        {"chosen": [user, good], "rejected": [user, bad]},
    ]
    found = [tokens_of(rows_of(a_job(tmp_path / str(index), model, [form]))[0]) for index, form in enumerate(forms)]
    assert all(tokens == found[0] for tokens in found)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    assert tokenizer.decode(found[0][0]) == "<|im_start|>user\nSay rain.<|im_end|><|im_start|>assistant\n"
    assert [tokenizer.decode(answer) for answer in found[0][1:]] == ["It rains.<|im_end|>", "no<|im_end|>"]


def test_a_reversed_pair_contradicts_the_first(tmp_path: Path) -> None:
    model = a_chat_model(tmp_path / "model", PLAIN_TEMPLATE)
    reversed_pair = PAIR | {"chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
    context = a_job(tmp_path, model, [PAIR, reversed_pair])
    rows_of(context)
    notes = json.loads((stored(context) / "data.json").read_text())["notes"]
    assert any(
        note.startswith("3 rows have the text of an earlier row but another label or choice, and are ")
        for note in notes
    )


def test_labels_of_kto_and_their_balance(tmp_path: Path) -> None:
    model = a_chat_model(tmp_path / "model", PLAIN_TEMPLATE)
    labels = [True, "true", 1, "True", "yes", True, "1", 1.0, " YES ", "False", "no", 0]
    judged = [{"prompt": f"Say {index}.", "completion": "It.", "label": label} for index, label in enumerate(labels)]
    context = a_job(tmp_path, model, judged, loss="KTO")
    assert [row["label"] for row in rows_of(context)] == [1] * 9 + [0] * 3
    report = json.loads((stored(context) / "data.json").read_text())
    assert report["splits"]["train"]["label_counts"] == {"desirable": 9, "undesirable": 3}
    (note,) = [note for note in report["notes"] if "balance" in note]
    assert "undesirableWeight from 2.26 to 3.00, or desirableWeight from 0.34 to 0.44" in note


@pytest.mark.parametrize("label", ["good", "", None, 2, "falsch", [True]])
def test_other_labels_of_kto_are_invalid(tmp_path: Path, label: object) -> None:
    model = a_chat_model(tmp_path / "model", PLAIN_TEMPLATE)
    failure = refused(a_job(tmp_path, model, [{"prompt": "p", "completion": "a", "label": label}], loss="KTO"))
    assert "which is neither true nor false; use true, false, yes, no, 1 or 0" in failure.message


def test_kto_needs_answers_of_both_kinds(tmp_path: Path) -> None:
    model = a_chat_model(tmp_path / "model", PLAIN_TEMPLATE)
    judged = [{"prompt": f"Say {index}.", "completion": "It.", "label": True} for index in range(3)]
    failure = refused(a_job(tmp_path, model, judged, loss="KTO"))
    assert failure.message.startswith("The train split has no undesirable answer, and KTO learns from both")
