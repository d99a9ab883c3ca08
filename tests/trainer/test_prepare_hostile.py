"""Hostile tokenizers and chat templates: one sentence for the user, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.tasks.instruction_tuning import rendering
from tests.trainer.prepare_fixtures import MARKED_TEMPLATE, a_chat_model, a_context, json_lines, prepared, refused

ROWS = [{"prompt": f"question {number}", "completion": "answer"} for number in range(60)]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def failure_of(root: Path, model: Path) -> StageFailure:
    train = {"train": {"uri": json_lines(root / "a.jsonl", ROWS)}}
    return refused(a_context(root, model.as_uri(), {"type": "InstructionTuning"}, train))


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{", "is not valid Jinja (unexpected 'end of template')"),
        ("{% generation %}", "is not valid Jinja (Unexpected end of template."),
        ("{{ x|foo }}", "is not valid Jinja (No filter named 'foo'.)"),
        (ENDLESS, "takes longer than 0.05 s for one conversation"),
    ],
)
def test_a_template_that_renders_nothing_is_the_fault_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, problem: str
) -> None:
    monkeypatch.setattr(rendering, "SECONDS_A_RENDERING", 0.05)
    failure = failure_of(tmp_path, a_chat_model(tmp_path / "model", template))
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert failure.message.startswith(f"The chat template of the model {problem}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1/0 }}",
        "{{ messages[99].content }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{{ messages.clear() }}",
        '{% include "/etc/passwd" %}',
        "{% for a in range(10**9) %}{% endfor %}",
    ],
)
def test_a_template_that_fails_makes_rows_invalid(tmp_path: Path, template: str) -> None:
    failure = failure_of(tmp_path, a_chat_model(tmp_path / "model", template))
    assert failure.reason is Reason.BAD_DATA
    assert "a.jsonl:1: the model's chat template rejects the conversation (" in failure.message


def test_end_tokens_that_are_no_token_ids_are_ignored(tmp_path: Path) -> None:
    model = a_chat_model(tmp_path / "model", MARKED_TEMPLATE)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [True, -1, 10**40, "1", None, 3]}))
    train = {"train": {"uri": json_lines(tmp_path / "a.jsonl", ROWS)}}
    _, report = prepared(a_context(tmp_path, model.as_uri(), {"type": "InstructionTuning"}, train))
    assert report.end_tokens == (1, 3)


def panics(document: Any) -> None:
    """The library slices a token at a position that does not exist, and panics."""
    document["model"]["continuing_subword_prefix"] = "<|im_end|>"


def lacks_the_unknown_token(document: Any) -> None:
    document["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}
    document["pre_tokenizer"] = None


def is_cut_off(document: Any) -> None:
    del document["model"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(panics, "loaded"), (is_cut_off, "loaded"), (lacks_the_unknown_token, "encode the data")],
)
def test_a_tokenizer_that_the_library_cannot_use_is_rejected(
    tmp_path: Path, damage: Callable[[Any], None], problem: str
) -> None:
    model = a_chat_model(tmp_path / "model", MARKED_TEMPLATE)
    document = json.loads((model / "tokenizer.json").read_text())
    damage(document)
    (model / "tokenizer.json").write_text(json.dumps(document))
    failure = failure_of(tmp_path, model)
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert problem in failure.message
    assert "tokenizer.json" in failure.message
    assert "\n" not in failure.message
