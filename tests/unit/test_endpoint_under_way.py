"""Requests that are under way when an endpoint is asked nothing more."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from test_endpoint_client import ask, questions

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.endpoint.client import Patience
from tests.endpoint_server import Reply, answer, endpoint, error


class Ended(logging.Handler):
    """A context manager with an event that is set when the client asks nothing more because of a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()
        self._logger = logging.getLogger("finetune_trainer.endpoint.client")

    def __enter__(self) -> threading.Event:
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self)
        return self.event

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        if "nothing more is asked" in record.getMessage():
            self.event.set()


@pytest.mark.parametrize(
    ("fault", "settings", "reason"),
    [
        (answer("fine"), {"max_requests": 5}, Reason.BUDGET_EXCEEDED),
        (answer("fine"), {"max_tokens": 30}, Reason.BUDGET_EXCEEDED),
        (error(401), {}, Reason.PERMISSION_DENIED),
    ],
    ids=["requests", "tokens", "401"],
)
def test_requests_under_way_are_answered_kept_and_counted_before_the_failure(
    tmp_path: Path, fault: Reply, settings: dict[str, Any], reason: Reason
) -> None:
    first = {"a", "b"}

    def respond(prompt: str, _: int) -> Reply:
        if prompt in first:
            return fault if prompt == "a" else answer("fine")
        assert ended.wait(30)
        return answer("fine")

    texts = [*"abcdefgh"]
    patience = Patience(answer_timeout=60)
    with endpoint(respond) as server, Ended() as ended:
        with pytest.raises(StageFailure) as caught:
            ask(server, questions(*texts), tmp_path, patience, max_concurrency=4, **settings)
        assert caught.value.reason is reason
        asked = set(server.prompts())
        assert 4 <= len(asked) < len(texts)
        if reason is Reason.BUDGET_EXCEEDED:
            assert f"{len(texts) - len(asked)} questions have no answer yet" in caught.value.message
        fault = answer("fine")
        _, usage = ask(server, questions(*texts), tmp_path, patience)
        unanswered = {"a"} if reason is Reason.PERMISSION_DENIED else set()
        assert usage.kept == len(asked - unanswered)
        assert {text for text, count in server.prompts().items() if count > 1} == unanswered
