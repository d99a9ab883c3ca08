"""Rows without answers, which a teacher behind an endpoint answers, and rows that lack more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import DataSource
from tests.endpoint_server import answer, endpoint
from tests.trainer.prepare_fixtures import (
    MARKED_TEMPLATE,
    a_chat_model,
    prepared,
    refused,
)
from tests.trainer.responses_fixtures import CHAT, Job, learned, prompts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return a_chat_model(tmp_path_factory.mktemp("model") / "model", MARKED_TEMPLATE).as_uri()


@pytest.mark.parametrize(
    "rows",
    [
        prompts("one", "two", completion=None),
        [{"messages": [{"role": "user", "content": text}]} for text in ("one", "two")],
        [{"conversations": [{"from": "human", "value": text}]} for text in ("one", "two")],
        [{"instruction": text, "output": None} for text in ("one", "two")],
        [{"prompt": "one", "completion": ""}, {"prompt": "two", "completion": "reference"}],
    ],
    ids=["prompts", "messages", "ShareGPT", "Alpaca", "some"],
)
def test_rows_of_training_need_no_answer(tmp_path: Path, model: str, rows: list[dict[str, Any]]) -> None:
    with endpoint(lambda prompt, _: answer(prompt.upper())) as server:
        context = Job(tmp_path, model, server).next(rows, prompts("own"), prompts("test"))
        prepared(context)
    assert learned(context) == [("one", "ONE"), ("two", "TWO")]


@pytest.mark.parametrize(
    ("task", "header", "missing"),
    [(CHAT, "prompt", "prompt"), ({"type": "Summarization"}, "text", "text")],
    ids=["prompts", "texts"],
)
def test_a_table_of_training_needs_no_column_with_answers(
    tmp_path: Path, model: str, task: dict[str, Any], header: str, missing: str
) -> None:
    with endpoint(lambda prompt, _: answer(prompt.upper())) as server:
        job = Job(tmp_path, model, server, task)
        whole = [{"prompt": text, "text": text, "completion": "x", "summary": "x"} for text in ("own", "test")]
        for name, code in ((header, 0), ("other", 1)):
            context = job.next([], whole[:1], whole[1:])
            table = tmp_path / "train.csv"
            table.write_text(f"{name},number\none,1\ntwo,2\n")
            dataset = context.config.spec.dataset.model_copy(update={"train": DataSource(uri=table.as_uri())})
            spec = context.config.spec.model_copy(update={"dataset": dataset})
            context = replace(context, config=context.config.model_copy(update={"spec": spec}))
            if code:
                assert f"column '{missing}' is missing (columns: 'other', 'number')" in refused(context).message
            else:
                prepared(context)
                assert [found.splitlines()[-1] for _, found in learned(context)] == ["ONE", "TWO"]


def test_rows_that_the_test_split_is_drawn_from_need_an_answer(tmp_path: Path, model: str) -> None:
    with endpoint(lambda _, __: answer("fine")) as server:
        failure = refused(Job(tmp_path, model, server).next(prompts("one", "two", completion=None)))
        assert not server.asked
    assert "train.jsonl:1: column 'completion' is missing" in failure.message
    assert "but test rows need answers of their own: put such rows into another file, and set dataset.test.uri" in (
        failure.message
    )


def test_a_column_that_is_missing_is_named_with_those_that_are_there(tmp_path: Path, model: str) -> None:
    with endpoint(lambda _, __: answer("fine")) as server:
        failure = refused(Job(tmp_path, model, server).next([{"question": "one"}], prompts("a"), prompts("b")))
    assert "train.jsonl:1: column 'prompt' is missing (columns: 'question')" in failure.message


def test_without_any_usable_answer_the_reason_is_said(tmp_path: Path, model: str) -> None:
    with endpoint(lambda prompt, _: answer("" if prompt.startswith("train") else "fine")) as server:
        rows = [prompts(*(f"{split} {number}" for number in range(3))) for split in ("train", "validation", "test")]
        failure = refused(Job(tmp_path, model, server).next(*rows, maxFailed=1))
    assert "3 of 6 answers of the teacher so far cannot be used: 3 at train.jsonl:1, train.jsonl:2, " in failure.message
    assert "the answer is empty; correct the teacher or the prompts; the answers are stored" in failure.message
