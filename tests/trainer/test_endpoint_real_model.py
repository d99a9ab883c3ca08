"""The client of an endpoint against `transformers serve` with a real model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import EndpointSpec
from finetune_trainer.endpoint.client import Client
from finetune_trainer.endpoint.messages import Answer, Outcome, Question
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usable import verdict
from tests.ports import free_port
from tests.trainer.tiny_models import save_llama

VENV = Path(sys.executable).parent
TIMEOUT_SECONDS = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served") / "model"
    save_llama(directory)
    return directory


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """A server that has loaded the model."""
    port = free_port()
    command = [VENV / "transformers", "serve", model, "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(VENV.parent / "serving"), "HF_HUB_OFFLINE": "1"}
    with (model.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (model.parent / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def ask(url: str, model: str, directory: Path) -> list[Outcome]:
    questions = [
        Question([{"role": "user", "content": f"what is it {word}"}], {"max_tokens": 4}) for word in ("rain", "apple")
    ]
    spec = EndpointSpec(url=url, model=model)
    with (
        AnswerStore(directory.as_uri()) as store,
        Client(spec, "model.endpoint", store, environment={}) as client,
    ):
        return client.ask(questions)


def test_answers_and_errors_of_a_real_server(url: str, model: Path, tmp_path: Path) -> None:
    for outcome in ask(url, str(model), tmp_path / "answers"):
        assert isinstance(outcome, Answer)
        assert not outcome.estimated
        assert 0 < outcome.completion_tokens <= 4
        assert outcome.prompt_tokens == 6
        # The model is not trained: it goes on to the limit.
        assert verdict(outcome).problem == "the answer is cut at the limit of tokens"
    with pytest.raises(StageFailure) as caught:
        ask(url, "no-such-model", tmp_path / "others")
    assert caught.value.reason in (Reason.BAD_CONFIGURATION, Reason.NOT_FOUND)
    assert "no-such-model" in caught.value.message
