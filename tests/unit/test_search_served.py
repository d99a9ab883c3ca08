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
from tests.endpoint_server import Reply, answer, endpoint
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
