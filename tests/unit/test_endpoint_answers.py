"""Reading the response of an endpoint, and whether its answer can be used."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.endpoint.failures import retry_after
from finetune_trainer.endpoint.messages import Answer, Failed, Question
from finetune_trainer.endpoint.parsing import Malformed, error_message, read_answer
from finetune_trainer.endpoint.usable import verdict
from finetune_trainer.endpoint.usage import Budget, Usage
from tests.endpoint_server import Reply, answer, document

QUESTION = Question([{"role": "user", "content": "How long?"}])


def read(reply: Reply) -> Answer:
    return read_answer(reply.body, QUESTION, 0.25)


class TestReading:
    def test_a_whole_answer(self) -> None:
        found = read(answer("Ten days."))
        assert (found.content, found.finish_reason, found.tokens, found.seconds) == ("Ten days.", "stop", 15, 0.25)
        assert not found.estimated

    @pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
    def test_reasoning_apart_from_the_content(self, key: str) -> None:
        found = read(answer("9", **{key: "4 and 5 make 9."}))
        assert (found.content, found.reasoning) == ("9", "4 and 5 make 9.")

    def test_content_in_parts(self) -> None:
        parts = [{"type": "text", "text": "Ten "}, {"type": "image_url"}, {"type": "text", "text": "days."}]
        assert read(answer(parts)).content == "Ten days."

    def test_tokens_that_the_endpoint_does_not_count_are_a_quarter_of_the_bytes(self) -> None:
        found = read(answer("Zehn Täge", usage=False))
        assert found.estimated
        assert found.completion_tokens == 3
        assert found.prompt_tokens == QUESTION.estimated_tokens > 5

    @pytest.mark.parametrize("counts", [{"prompt_tokens": -1, "completion_tokens": True}, "many", None])
    def test_a_usage_that_is_none_is_estimated(self, counts: Any) -> None:
        content = json.loads(answer("Ten days.").body)
        assert read(document(content | {"usage": counts})).estimated

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "answers with nothing"),
            (b"<!DOCTYPE html><html>Sign in</html>", "answers with HTML, not JSON: '<!DOCTYPE html>"),
            (b"data: {}\n\n", "answers with text, not JSON: 'data: {}'"),
            (b'{"choices": [{"mess', "answers with text, not JSON"),
            (b'{"object": "list", "data": []}', "answers with JSON that has no choices"),
            (b"[]", "answers with JSON that has no choices"),
            (b'{"choices": []}', "answers with JSON that has no choices"),
            (b'{"choices": [{"text": "x"}]}', "answers with a choice that has no message"),
            (b'{"error": {"message": "no\\ncapacity"}}', "reports an error with status 200: no capacity"),
        ],
    )
    def test_a_response_that_is_no_answer(self, body: bytes, words: str) -> None:
        with pytest.raises(Malformed, match="^" + re.escape(words)):
            read_answer(body, QUESTION, 0)

    @pytest.mark.parametrize(
        "body", [{"error": "gone"}, {"error": {"message": "gone"}}, {"message": "gone"}, {"detail": "gone"}, "gone"]
    )
    def test_messages_of_errors(self, body: Any) -> None:
        assert error_message(body) == "gone"

    @pytest.mark.parametrize("body", [None, [], {"error": None}, {"error": {"message": 7}}])
    def test_errors_without_a_message(self, body: Any) -> None:
        assert error_message(body) == ""


class TestVerdict:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ("Ten days.", "Ten days."),
            ("  Ten days.\n", "Ten days."),
            ("<think>First.</think>\n\nTen days.", "Ten days."),
            ("\n<think>\nTwo <b>\n</think>Ten days.", "Ten days."),
            ("First I think.\n</think>\nTen days.", "Ten days."),
            ("Write <think>…</think> around it.", "Write <think>…</think> around it."),
        ],
    )
    def test_only_the_answer_is_used(self, content: str, text: str) -> None:
        assert verdict(read(answer(content))).text == text

    @pytest.mark.parametrize("finish", [None, "stop", "eos", "end_turn"])
    def test_reasons_of_whole_answers(self, finish: str | None) -> None:
        assert verdict(read(answer("Ten days.", finish))).text == "Ten days."

    @pytest.mark.parametrize(
        ("reply", "problem"),
        [
            (answer("An answer that was cut in the mid", "length"), "the answer is cut at the limit of tokens"),
            (
                answer(None, "length", reasoning_content="First I"),
                "the answer is cut at the limit of tokens, and has only reasoning",
            ),
            (
                answer("<think>First I", "length"),
                "the answer is cut at the limit of tokens, and has only reasoning",
            ),
            (answer("<think>First I"), "the reasoning in the answer does not end"),
            (answer("<think>First.</think>"), "the answer has only reasoning"),
            (answer(None, reasoning="First."), "the answer has only reasoning"),
            (answer(None, refusal="I cannot help."), "the endpoint marks the answer as a refusal"),
            (answer("", "content_filter"), "the content filter of the endpoint has stopped the answer"),
            (answer("  \n"), "the answer is empty"),
            (answer(None), "the answer is empty"),
            (answer(None, "tool_calls", tool_calls=[{"id": "1"}]), "the answer calls a tool"),
            (answer("I look it up.", tool_calls=[{"id": "1"}]), "the answer calls a tool"),
            (answer("", "function_call", function_call={"name": "f"}), "the answer calls a tool"),
            (answer("Ten", "abort"), "the answer ends with 'abort'"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_left_out(self, reply: Reply, problem: str) -> None:
        found = verdict(read(reply))
        assert (found.text, found.problem, found.suspect) == (None, problem, False)

    def test_a_failed_question(self) -> None:
        assert verdict(Failed("the endpoint fails (500)")).problem == "the endpoint fails (500)"

    # Case 20 of the shared cases: from public reports of other projects.
    @pytest.mark.parametrize(
        ("text", "suspect"),
        [
            ("Hold the red key for five seconds.", False),
            ('It says: "I cannot open this door."', False),
            ("I'm sorry, but I can't help with that.", True),
            ("9", False),
            ("Sorry", False),
            ("As an AI language model, I cannot answer.", True),
            ("No, used tickets cannot be refunded.", False),
            ("I'm sorry for the delay; your parcel left today.", False),
            ("I cannot assist with this request.", True),
            ("You cannot run it without oil.", False),
            ("I am unable to provide that information.", True),
            ("Unfortunately, I can’t do that.", True),
            ("I can help with that.", False),
            ("I cannot find the key. Hold the red one instead.", False),
            ("I cannot help you to lift it alone. " + "Ask a second person, and lift it together. " * 20, False),
        ],
    )
    def test_answers_that_read_like_a_refusal(self, text: str, suspect: bool) -> None:
        found = verdict(read(answer(text)))
        assert found.text == text.strip()
        assert found.suspect is suspect


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("7", 7),
            ("0.5", 0.5),
            ("-3", 0),
            ("Sun, 29 Nov 2026 00:00:10 GMT", 10),
            ("Sun, 29 Nov 2026 00:00:00 +0000", 0),
            ("soon", None),
            ("inf", None),
            ("nan", None),
            (None, None),
        ],
    )
    def test_seconds_or_a_date(self, value: str | None, seconds: float | None) -> None:
        now = 1795910400.0  # 2026-11-29T00:00:00Z
        assert retry_after({} if value is None else {"retry-after": value}, now) == seconds


class TestBudget:
    def spent(self) -> Usage:
        usage = Usage(requests=3)
        usage.add(read(answer("x")), kept=True)
        return usage

    @pytest.mark.parametrize(("requests", "tokens"), [(5, 16), (None, None)])
    def test_within_the_budget(self, requests: int | None, tokens: int | None) -> None:
        Budget("model.endpoint", requests, tokens).check(self.spent(), 7)

    @pytest.mark.parametrize(
        ("requests", "tokens", "words"),
        [(4, None, r"4 requests \(model.endpoint.maxRequests\)"), (9, 15, r"15 tokens \(model.endpoint.maxTokens\)")],
    )
    def test_used_up(self, requests: int | None, tokens: int | None, words: str) -> None:
        with pytest.raises(StageFailure, match=words) as caught:
            Budget("model.endpoint", requests, tokens).check(self.spent(), 7)
        assert caught.value.reason is Reason.BUDGET_EXCEEDED
        assert "7 questions" in caught.value.message


def test_the_key_of_a_question_depends_on_all_that_decides_its_answer() -> None:
    keys = {
        QUESTION.key("http://a/v1", "m"),
        QUESTION.key("http://b/v1", "m"),
        QUESTION.key("http://a/v1", "n"),
        Question(QUESTION.messages, {"temperature": 0}).key("http://a/v1", "m"),
        Question([{"role": "user", "content": "How far?"}]).key("http://a/v1", "m"),
    }
    assert len(keys) == 5
    assert QUESTION.key("http://a/v1/", "m") in keys
