"""A model behind an endpoint that answers the prompts of a search."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.endpoint import client
from finetune_trainer.search.asked import Spent
from finetune_trainer.search.prompt import Prompt
from finetune_trainer.search.served import served
from tests.builders import a_job
from tests.endpoint_server import Reply, answer, document, endpoint
from tests.unit.search_cases import searched

ROWS = [{"text": f"row {number}"} for number in range(4)]


def spec_of(url: str) -> FineTuneJobSpec:
    model = {"endpoint": {"url": url, "model": "m", "maxConcurrency": 1}}
    return a_job(model=model, **searched()).spec


def test_examples_are_reported_while_the_endpoint_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TICK_SECONDS", 0.01)
    reported: list[int] = []
    changed = threading.Condition()

    def on_examples(examples: int) -> None:
        with changed:
            reported.append(examples)
            changed.notify_all()

    def respond(prompt: str, _: int) -> Reply:
        """Answer a row once all rows before it are reported."""
        earlier = int(prompt.rpartition(" ")[2])
        with changed:
            assert changed.wait_for(lambda: sum(reported) >= earlier, 30), reported
        return answer("good")

    with (
        endpoint(respond) as server,
        served(spec_of(server.url), (tmp_path / "answers").as_uri(), lambda _: None, Spent()) as model,
    ):
        answers, _ = model.answers(Prompt("Sentiment of: {text}"), ROWS, on_examples)
        assert answers == ["good"] * len(ROWS)
        assert sum(reported) == len(ROWS)
        model.answers(Prompt("Sentiment of: {text}"), ROWS, on_examples)  # From the store.
        assert sum(reported) == 2 * len(ROWS)


def test_a_label_may_cost_as_much_as_any_answer(tmp_path: Path) -> None:
    """A model that thinks writes more than the label."""

    def respond(*_: object) -> Reply:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "good"}}
        usage = {"prompt_tokens": 9, "completion_tokens": 128, "total_tokens": 137}
        return document({"id": "1", "object": "chat.completion", "created": 0, "choices": [choice], "usage": usage})

    prompt, labels = Prompt("Sentiment of: {text}"), ["good", "bad"]
    with (
        endpoint(respond) as server,
        served(spec_of(server.url), (tmp_path / "answers").as_uri(), lambda _: None, Spent()) as model,
    ):
        _, cost = model.ranked(prompt, ROWS, labels, lambda _: None)
        assert cost.tokens == 137 * len(ROWS)
        assert model.most(prompt, ROWS, labels).tokens >= cost.tokens


def test_answers_that_cannot_be_used_are_counted_by_their_reason(tmp_path: Path) -> None:
    def respond(prompt: str, _: int) -> Reply:
        number = int(prompt.rpartition(" ")[2])
        return (answer("good"), answer("go", finish="length"), answer("go", finish="length"), answer(""))[number]

    with (
        endpoint(respond) as server,
        served(spec_of(server.url), (tmp_path / "answers").as_uri(), lambda _: None, Spent()) as model,
    ):
        answers, cost = model.answers(Prompt("Sentiment of: {text}"), ROWS, lambda _: None)
        assert answers == ["good", "", "", ""]
        assert cost.unusable == {"the answer is cut at the limit of tokens": 2, "the answer is empty": 1}
