"""Prepare decides how the model is handled, and refuses a model that cannot be tuned."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_trainer.context import StageContext
from tests.trainer.prepare_fixtures import PLAIN_TEMPLATE, a_chat_model, a_context, json_lines, prepared, refused


def chat(tmp_path: Path, model_type: str, **spec: Any) -> StageContext:
    """A job on conversations, with a model of this type."""
    model = a_chat_model(tmp_path / "model", PLAIN_TEMPLATE)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    rows = [{"prompt": f"what is {number}?", "completion": f"it is {number}"} for number in range(30)]
    data = json_lines(tmp_path / "train.jsonl", rows)
    return a_context(tmp_path, model.as_uri(), {"type": "InstructionTuning"}, {"train": {"uri": data}}, **spec)


def test_packing_is_turned_off_for_a_model_that_mixes_packed_conversations(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    _, report = prepared(chat(tmp_path, "opt"))
    assert not report.handling.packing
    assert report.handling.batching
    note = "packing is off, because OPTForCausalLM does not separate the examples of a packed row"
    assert report.handling.notes == (note,)
    assert note in caplog.messages


def test_a_model_without_limits_is_packed(tmp_path: Path) -> None:
    _, report = prepared(chat(tmp_path, "llama"))
    assert report.handling.packing
    assert report.handling.notes == ()


def test_packing_that_the_job_asks_for_is_refused_where_it_would_be_wrong(tmp_path: Path) -> None:
    failure = refused(chat(tmp_path, "opt", training={"packing": True}))
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert "training.packing is true, but OPTForCausalLM does not separate" in str(failure)


def test_a_model_that_cannot_be_tuned_is_refused_before_its_data_is_read(tmp_path: Path) -> None:
    context = chat(tmp_path, "xlnet")
    (tmp_path / "train.jsonl").write_text("this is no JSON\n")
    failure = refused(context)
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert "XLNetLMHeadModel" in str(failure)
    assert "a token sees the tokens after it" in str(failure)
