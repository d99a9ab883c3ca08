"""SIGTERM while an endpoint is asked, in this process; `tests/trainer/test_asking_stops.py` stops whole stages."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import EndpointSpec
from finetune_trainer.endpoint.client import Client, Patience
from finetune_trainer.endpoint.messages import Question
from finetune_trainer.endpoint.stopping import StopRequest
from finetune_trainer.endpoint.store import AnswerStore
from tests.endpoint_server import Endpoint, Reply, answer, endpoint, error


def ask(server: Endpoint, directory: Path, *texts: str, last_answers: float = 45.0) -> None:
    spec = EndpointSpec(url=server.url, model="m", max_concurrency=2)
    patience = Patience(first_wait=60.0, last_answers=last_answers)
    with (
        StopRequest() as stop,
        AnswerStore((directory / "answers").as_uri()) as store,
        Client(spec, "model.endpoint", store, patience=patience, environment={}, stop=stop) as client,
    ):
        for text in texts:
            client.ask([Question([{"role": "user", "content": one}]) for one in text])


def stops(server: Endpoint, directory: Path, *texts: str, last_answers: float = 45.0) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StageFailure) as caught:
        ask(server, directory, *texts, last_answers=last_answers)
    assert caught.value.reason is Reason.STOPPED
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_request_that_takes_too_long_is_given_up_and_asked_again(tmp_path: Path) -> None:
    end = threading.Event()

    def respond(prompt: str, count: int) -> Reply:
        if prompt == "b" and count == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            end.wait()
        return answer("fine")

    with endpoint(respond) as server:
        try:
            stops(server, tmp_path, "abcd", last_answers=0.3)
        finally:
            end.set()
        ask(server, tmp_path, "abcd")
    assert server.prompts()["b"] == 2
    assert max(server.prompts()[text] for text in "acd") == 1


def test_a_question_that_waits_to_be_asked_again_is_not_waited_for(tmp_path: Path) -> None:
    def respond(prompt: str, _: int) -> Reply:
        if prompt == "b":
            os.kill(os.getpid(), signal.SIGTERM)
            return error(500)
        return answer("fine")

    with endpoint(respond) as server:
        stops(server, tmp_path, "ab")
    assert server.prompts()["b"] == 1


def test_nothing_is_asked_after_a_stop_between_two_calls(tmp_path: Path) -> None:
    asked = [Question([{"role": "user", "content": "a"}])]
    with endpoint(lambda *_: answer("fine")) as server:
        spec = EndpointSpec(url=server.url, model="m")
        stop, store = StopRequest(), AnswerStore((tmp_path / "answers").as_uri())
        with store, Client(spec, "model.endpoint", store, environment={}, stop=stop) as client:
            with pytest.raises(StageFailure, match="stopped on request"), stop:
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(StageFailure, match="stopped on request"):
                client.ask(asked)
    assert server.asked == []


def test_a_stop_after_the_last_answer_ends_the_stage_too() -> None:
    with pytest.raises(StageFailure, match="stopped on request"), StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
