"""The client of an endpoint against a server on loopback that misbehaves."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import EndpointSpec
from finetune_trainer.certificates import trust_bundle
from finetune_trainer.endpoint.client import Client, Patience
from finetune_trainer.endpoint.messages import Answer, Failed, Outcome, Question
from finetune_trainer.endpoint.store import AnswerStore
from finetune_trainer.endpoint.usage import Usage
from tests.endpoint_server import Endpoint, Reply, Respond, answer, document, endpoint, error
from tests.ports import free_port
from tests.tls import Authority

SHORT = Patience(tries=3, limited_tries=4, first_wait=0.01, longest_wait=0.5)
HTML = Reply(b"<html>Sign in</html>", headers={"Content-Type": "text/html"})


def questions(*texts: str) -> list[Question]:
    return [Question([{"role": "user", "content": text}]) for text in texts]


def ask(
    server: Endpoint | str,
    asked: Sequence[Question],
    directory: Path,
    patience: Patience = SHORT,
    key: str | None = None,
    **settings: Any,
) -> tuple[list[Outcome], Usage]:
    url = server if isinstance(server, str) else server.url
    spec = EndpointSpec(url=url, model="m", **settings)
    environment = {"OPENAI_API_KEY": key} if key else {}
    with (
        AnswerStore((directory / "answers").as_uri()) as store,
        Client(spec, "model.endpoint", store, patience=patience, environment=environment) as client,
    ):
        return client.ask(asked), client.usage


def failure(respond: Respond, directory: Path, *texts: str, **settings: Any) -> StageFailure:
    with endpoint(respond) as server, pytest.raises(StageFailure) as caught:
        ask(server, questions(*(texts or ("good",))), directory, **settings)
    assert "\n" not in caught.value.message
    return caught.value


def always(reply: Reply | None) -> Respond:
    return lambda _, __: reply


def only_bad(reply: Reply | None) -> Respond:
    return lambda prompt, _: reply if prompt == "bad" else answer("fine")


class TestAnswers:
    def test_in_the_order_of_the_questions(self, tmp_path: Path) -> None:
        with endpoint(lambda prompt, _: answer(prompt.upper())) as server:
            texts = [f"question {number}" for number in range(40)]
            random.Random(1).shuffle(texts)
            outcomes, usage = ask(server, questions(*texts), tmp_path)
        assert [one.content for one in outcomes if isinstance(one, Answer)] == [text.upper() for text in texts]
        assert (usage.requests, usage.retries, usage.prompt_tokens, usage.completion_tokens) == (40, 0, 400, 200)
        assert usage.answer_seconds > 0

    def test_request_has_model_messages_parameters_and_key(self, tmp_path: Path) -> None:
        with endpoint(always(answer("fine"))) as server:
            ask(server, [Question([{"role": "user", "content": "x"}], {"max_tokens": 7})], tmp_path, key="sk-1")
            ask(server, questions("y"), tmp_path)
        assert server.asked[0] == {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 7}
        assert server.keys == ["Bearer sk-1", "Bearer none"]

    def test_a_secret_without_a_key_is_refused_before_the_first_question(self, tmp_path: Path) -> None:
        with endpoint(always(answer("fine"))) as server:
            with pytest.raises(StageFailure, match=r"^model\.endpoint\.secretRef names the Secret keys") as caught:
                ask(server, questions("x"), tmp_path, secret_ref={"name": "keys"})
            assert caught.value.reason is Reason.PERMISSION_DENIED
            assert not server.asked
            ask(server, questions("x"), tmp_path, key="sk-1", secret_ref={"name": "keys"})
        assert server.keys == ["Bearer sk-1"]

    def test_a_private_authority_is_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        authority = Authority(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        monkeypatch.setenv("FINETUNE_CA_BUNDLE", str(authority.certificate))
        trust_bundle(tmp_path)
        with endpoint(always(answer("fine")), authority.issue()) as server:
            outcomes, _ = ask(server, questions("x"), tmp_path)
        assert isinstance(outcomes[0], Answer)

    def test_no_more_at_once_than_allowed(self, tmp_path: Path) -> None:
        with endpoint(always(answer("fine"))) as server:
            ask(server, questions(*map(str, range(30))), tmp_path, max_concurrency=2)
        assert 1 <= server.most_at_once <= 2

    def test_questions_without_an_answer_are_no_progress(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("finetune_trainer.endpoint.client._TICK_SECONDS", 0.01)
        reported: list[int] = []
        failed = threading.Event()

        def respond(prompt: str, _: int) -> Reply:
            if prompt != "good":
                return HTML
            assert failed.wait(30)
            return answer("fine")

        def on_progress(done: int) -> None:
            reported.append(done)
            if len(server.asked) == 1 + 3 * SHORT.tries:
                failed.set()

        asked = questions("good", "bad 1", "bad 2", "bad 3")
        spec = EndpointSpec(url="http://localhost", model="m")
        with (
            endpoint(respond) as server,
            AnswerStore((tmp_path / "answers").as_uri()) as store,
            Client(
                spec.model_copy(update={"url": server.url}),
                "model.endpoint",
                store,
                patience=SHORT,
                on_progress=on_progress,
            ) as client,
        ):
            outcomes = client.ask(asked)
        assert [isinstance(one, Answer) for one in outcomes] == [True, False, False, False]
        assert len(reported) > 1
        assert max(reported) <= 1

    def test_equal_questions_are_asked_once(self, tmp_path: Path) -> None:
        with endpoint(always(answer("fine"))) as server:
            outcomes, usage = ask(server, questions("x", "x", "y"), tmp_path)
        assert len(outcomes) == 3
        assert usage.requests == len(server.asked) == 2

    def test_nothing_is_asked_twice_also_by_another_run(self, tmp_path: Path) -> None:
        with endpoint(lambda prompt, count: answer(f"{prompt} {count}")) as server:
            first, _ = ask(server, questions("x", "y"), tmp_path)
            second, usage = ask(server, questions("x", "y", "z"), tmp_path)
        assert second[:2] == first
        assert (usage.answers, usage.kept, usage.requests) == (3, 2, 1)
        assert server.prompts() == {"x": 1, "y": 1, "z": 1}

    def test_a_damaged_store_loses_only_the_damaged_lines(self, tmp_path: Path) -> None:
        with endpoint(always(answer("fine"))) as server:
            ask(server, questions("x", "y"), tmp_path)
            (file,) = (tmp_path / "answers").iterdir()
            lines = file.read_bytes().splitlines(keepends=True)
            file.write_bytes(lines[0] + b'{"key": "a"}\n[]\n' + lines[1][:40])
            _, usage = ask(server, questions("x", "y"), tmp_path)
            assert (usage.kept, usage.requests) == (1, 1)
            # One of another version.
            key = json.loads(lines[0])["key"]
            file.write_text(json.dumps({"key": key, "answer": {"text": "fine"}}))
            file.with_name("other.jsonl").write_bytes(lines[1])
            _, usage = ask(server, questions("x", "y"), tmp_path)
            assert (usage.kept, usage.requests) == (1, 1)


class TestRetries:
    @pytest.mark.parametrize(
        "reply",
        [error(500), error(503), error(408), HTML, document({"data": []}), None, Reply(b'{"choices": []}', cut=5)],
        ids=["500", "503", "408", "HTML", "other JSON", "nothing", "half a stream"],
    )
    def test_a_passing_trouble_is_asked_again(self, tmp_path: Path, reply: Reply | None) -> None:
        with endpoint(lambda _, count: reply if count < 3 else answer("fine")) as server:
            (outcome,), usage = ask(server, questions("x"), tmp_path)
        assert isinstance(outcome, Answer)
        assert (usage.requests, usage.retries) == (3, 2)

    @pytest.mark.parametrize(
        ("reply", "problem"),
        [
            (error(500), "the endpoint fails (500: oops)"),
            (HTML, "the endpoint answers with HTML, not JSON: '<html>Sign in</html>'"),
            (Reply(b"<html>Bad gateway</html>", 502), "the endpoint fails (502)"),
            (None, "the endpoint ends the connection in the middle of the answer"),
            (error(400, "too long"), "the endpoint refuses the request (400: too long)"),
            (error(403, "flagged"), "the endpoint refuses access (403: flagged)"),
        ],
        ids=["500", "HTML", "502 with HTML", "nothing", "400", "403"],
    )
    def test_a_lasting_trouble_of_one_question_fails_that_question(
        self, tmp_path: Path, reply: Reply | None, problem: str
    ) -> None:
        with endpoint(only_bad(reply)) as server:
            outcomes, _ = ask(server, questions("good", "bad", "better"), tmp_path)
        assert outcomes[1] == Failed(problem)
        assert isinstance(outcomes[0], Answer)
        assert isinstance(outcomes[2], Answer)

    def test_no_answer_in_time(self, tmp_path: Path) -> None:
        released = threading.Event()

        def respond(prompt: str, _: int) -> Reply:
            if prompt == "bad":
                released.wait(30)
            return answer("fine")

        with endpoint(respond) as server:
            outcomes, _ = ask(server, questions("good", "bad"), tmp_path, Patience(tries=1, answer_timeout=2))
            released.set()
        assert outcomes[1] == Failed("the endpoint does not answer in time")

    @pytest.mark.parametrize(
        ("headers", "least"), [({"Retry-After": "0.3"}, 0.3), ({}, 0.0075), ({"Retry-After": "0"}, 0)]
    )
    def test_a_rate_limit_holds_all_questions_for_as_long_as_it_says(
        self, tmp_path: Path, headers: dict[str, str], least: float
    ) -> None:
        limit = error(429, "slow down", **headers)
        with endpoint(lambda _, count: limit if count < 3 else answer("fine")) as server:
            (outcome,), usage = ask(server, questions("busy"), tmp_path)
        assert isinstance(outcome, Answer)
        assert (usage.requests, usage.retries) == (3, 2)
        assert server.times[1] - server.times[0] >= least

    def test_a_rate_limit_lasts_while_others_are_answered(self, tmp_path: Path) -> None:
        replies = {"busy": 8}
        with endpoint(
            lambda prompt, count: error(429) if count <= replies.get(prompt, 0) else answer("fine")
        ) as server:
            others = [f"good {number}" for number in range(40)]
            outcomes, _ = ask(server, questions("busy", *others), tmp_path, max_concurrency=2)
        assert all(isinstance(one, Answer) for one in outcomes)


class TestFailures:
    @pytest.mark.parametrize(
        ("reply", "reason", "words"),
        [
            (error(401, "sk-secret is wrong"), Reason.PERMISSION_DENIED, "refuses the key (401); set OPENAI_API_KEY"),
            (error(402, "pay"), Reason.PERMISSION_DENIED, "has no credit left (402: pay); add credit"),
            (error(403), Reason.PERMISSION_DENIED, "refuses access (403: oops); let the key"),
            (error(404, "no model m"), Reason.NOT_FOUND, "has no model m, or no chat/completions (404: no model m)"),
            (error(405), Reason.NOT_FOUND, "correct the url"),
            (error(429), Reason.UNAVAILABLE, "takes no more requests (429: oops); the answers so far are kept"),
            (error(429, **{"Retry-After": "3600"}), Reason.UNAVAILABLE, "asks to wait 3,600 s, longer than 0 s"),
            (
                error(429, "pay", "insufficient_quota"),
                Reason.PERMISSION_DENIED,
                "has no credit left (429: pay); add credit",
            ),
            (error(500), Reason.UNAVAILABLE, "fails (500: oops); the answers so far are kept"),
            (None, Reason.UNAVAILABLE, "ends the connection in the middle of the answer"),
            (HTML, Reason.BAD_CONFIGURATION, "answers with HTML, not JSON: '<html>Sign in</html>'; correct the url"),
            (document({"data": []}), Reason.BAD_CONFIGURATION, "answers with JSON that has no choices"),
            (Reply(b'{"choices": []}', cut=5), Reason.UNAVAILABLE, "ends the connection in the middle"),
            (error(400, "no temperature"), Reason.BAD_CONFIGURATION, "refuses the request (400: no temperature)"),
        ],
        ids=[
            *("401", "402", "403", "404", "405", "429", "long wait", "credit"),
            *("500", "nothing", "HTML", "JSON", "half", "400"),
        ],
    )
    def test_an_endpoint_that_answers_nothing(
        self, tmp_path: Path, reply: Reply | None, reason: Reason, words: str
    ) -> None:
        caught = failure(always(reply), tmp_path)
        assert caught.reason is reason
        assert words in caught.message
        assert caught.retry_after == (3600 if "asks to wait" in words else None)
        assert "sk-secret" not in caught.message

    def test_a_port_without_a_server(self, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{free_port()}/v1"
        with pytest.raises(StageFailure, match=f"{url} does not accept connections") as caught:
            ask(url, questions("x"), tmp_path)
        assert caught.value.reason is Reason.UNAVAILABLE

    def test_a_port_without_a_server_in_the_pod(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        with pytest.raises(StageFailure, match="does not accept connections, and in a pod this address is the pod"):
            ask(f"http://127.0.0.1:{free_port()}/v1", questions("x"), tmp_path)

    def test_a_host_name_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(StageFailure, match="is not found, because its host name does not resolve") as caught:
            ask("http://models.invalid/v1", questions("x"), tmp_path)
        assert caught.value.reason is Reason.UNAVAILABLE

    def test_a_wrong_path(self, tmp_path: Path) -> None:
        with (
            endpoint(always(answer("fine"))) as server,
            pytest.raises(StageFailure, match="404: no such path") as caught,
        ):
            ask(server.url.removesuffix("/v1"), questions("x"), tmp_path)
        assert caught.value.reason is Reason.NOT_FOUND

    @pytest.mark.parametrize("url", ["http://127.0.0.1:PORT/v1", "http://[::1/v1"])
    def test_an_address_that_is_none(self, tmp_path: Path, url: str) -> None:
        with pytest.raises(StageFailure, match="is no address of a server; correct the url") as caught:
            ask(url, questions("x"), tmp_path)
        assert caught.value.reason is Reason.BAD_CONFIGURATION

    @pytest.mark.parametrize(
        ("host", "words"),
        [("IP:127.0.0.1", "has signed the certificate of"), ("DNS:elsewhere.example", "is for another host")],
    )
    def test_a_certificate_that_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, words: str
    ) -> None:
        authority = Authority(tmp_path)
        if host.startswith("DNS"):
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        with endpoint(always(answer("fine")), authority.issue(host)) as server, pytest.raises(StageFailure) as caught:
            ask(server, questions("x"), tmp_path)
        assert caught.value.reason is Reason.BAD_CONFIGURATION
        assert words in caught.value.message

    def test_an_endpoint_that_goes_down(self, tmp_path: Path) -> None:
        texts = [f"question {number}" for number in range(60)]
        with endpoint(lambda prompt, _: answer("fine") if prompt in texts[:20] else error(500)) as server:
            with pytest.raises(StageFailure, match=r"fails \(500: oops\); the answers so far are kept") as caught:
                ask(server, questions(*texts), tmp_path)
            assert len(server.prompts()) < 50
            assert (caught.value.reason, caught.value.progressed) == (Reason.UNAVAILABLE, True)
            with pytest.raises(StageFailure) as again:
                ask(server, questions(*texts), tmp_path)
        assert (again.value.reason, again.value.progressed) == (Reason.UNAVAILABLE, False)

    def test_what_was_answered_before_a_failure_is_kept(self, tmp_path: Path) -> None:
        with endpoint(lambda prompt, _: answer("fine") if prompt != "z" else error(401)) as server:
            with pytest.raises(StageFailure):
                ask(server, questions("x", "y", "z"), tmp_path, max_concurrency=1)
            assert server.prompts() == {"x": 1, "y": 1, "z": 1}
            outcomes, _ = ask(server, questions("x", "y"), tmp_path)
            assert len(outcomes) == 2
            assert server.prompts()["x"] == 1

    @pytest.mark.parametrize(
        ("budget", "words"),
        [({"max_requests": 2}, "2 requests (model.endpoint.maxRequests)"), ({"max_tokens": 30}, "30 tokens")],
    )
    def test_a_budget_that_is_used_up_in_the_middle(self, tmp_path: Path, budget: dict[str, int], words: str) -> None:
        texts = ["a", "b", "c", "d"]
        with endpoint(always(answer("fine"))) as server:
            with pytest.raises(StageFailure) as caught:
                ask(server, questions(*texts), tmp_path, max_concurrency=1, **budget)
            assert caught.value.reason is Reason.BUDGET_EXCEEDED
            assert f"The budget of {words}" in caught.value.message
            assert "2 questions have no answer yet" in caught.value.message
            # The same budget is used up at once, and a higher one asks only the rest.
            with pytest.raises(StageFailure):
                ask(server, questions(*texts), tmp_path, **budget)
            ask(server, questions(*texts), tmp_path, max_requests=4, max_tokens=60)
        assert server.prompts() == {"a": 1, "b": 1, "c": 1, "d": 1}
