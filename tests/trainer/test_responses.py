"""A teacher behind an endpoint that answers the prompts of training and validation, in the prepare stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_trainer.context import StageContext
from finetune_trainer.endpoint.client import Client, Patience
from finetune_trainer.host.inputs import data_digest
from finetune_trainer.manifests import read_manifest
from finetune_trainer.row_hashes import read_learned
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.instruction_tuning.messages import conversation
from finetune_trainer.tasks.instruction_tuning.teaching import question, with_answer
from finetune_trainer.teaching import answering
from tests.endpoint_server import Reply, answer, endpoint, error
from tests.trainer.pair_models import save_t5
from tests.trainer.prepare_fixtures import (
    MARKED_TEMPLATE,
    a_chat_model,
    a_context,
    json_lines,
    prepared,
    refused,
    stored,
)
from tests.trainer.responses_fixtures import CHAT, Job, learned, measured, prompts


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "Client", partial(Client, patience=Patience(tries=3, first_wait=0.01)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return a_chat_model(tmp_path_factory.mktemp("model") / "model", MARKED_TEMPLATE).as_uri()


CASE = ["good", "long", "thinking", "thought", "refusal", "filter", "empty", "tool", "busy", "broken", "good", "good"]
REPLIES: dict[str, Callable[[int], Reply]] = {
    "good": lambda _: answer("A whole answer."),
    "long": lambda _: answer("An answer that was cut in the mid", "length"),
    "thinking": lambda _: answer(None, "length", reasoning_content="First I would"),
    "thought": lambda _: answer("The sum is 9.", reasoning_content="4 and 5 make 9."),
    "refusal": lambda _: answer(None, refusal="I cannot help with that."),
    "filter": lambda _: answer("", "content_filter"),
    "empty": lambda _: answer("  \n"),
    "tool": lambda _: answer(None, "tool_calls", tool_calls=[{"id": "1", "type": "function"}]),
    "busy": lambda time: answer("A whole answer.") if time > 2 else error(429, **{"Retry-After": "0.05"}),
    "broken": lambda _: error(500),
    "own": lambda _: answer("A whole answer."),
}
"""Case 19 of the shared cases: from public reports of other projects."""


def test_only_whole_answers_are_learned_and_every_other_is_reported(tmp_path: Path, model: str) -> None:
    def respond(prompt: str, time: int) -> Reply:
        return REPLIES[prompt.split(maxsplit=1)[0]](time)

    with endpoint(respond) as server:
        job = Job(tmp_path, model, server)
        train = prompts(*(f"{name} question {number}" for number, name in enumerate(CASE)))
        splits = (train, prompts("own 1"), prompts("own 2"))
        context = job.next(*splits)
        result, report = prepared(context)
        assert learned(context) == [
            ("good question 0", "A whole answer."),
            ("thought question 3", "The sum is 9."),
            ("busy question 8", "A whole answer."),
            ("good question 10", "A whole answer."),
            ("good question 11", "A whole answer."),
        ]
        assert learned(context, "validation") == [("own 1", "A whole answer.")]
        assert learned(context, "test") == [("own 2", "reference")]
        assert [(one["source"], one["answer"]) for one in measured(context)] == [("test.jsonl:1", "A whole answer.")]
        assert report.responses
        assert [(row.file, row.line, row.problem) for row in report.responses.left_out] == [
            ("train.jsonl", 2, "the answer is cut at the limit of tokens"),
            ("train.jsonl", 3, "the answer is cut at the limit of tokens, and has only reasoning"),
            ("train.jsonl", 5, "the endpoint marks the answer as a refusal"),
            ("train.jsonl", 6, "the content filter of the endpoint has stopped the answer"),
            ("train.jsonl", 7, "the answer is empty"),
            ("train.jsonl", 8, "the answer calls a tool"),
            ("train.jsonl", 10, "the endpoint fails (500: oops)"),
        ]
        assert result.responses
        assert (result.responses.used, result.responses.left_out) == (6, 7)
        assert len(result.responses.problems) == 7
        assert "1 at train.jsonl:2: the answer is cut at the limit of tokens" in result.responses.problems
        assert (result.responses.requests, result.responses.retries) == (18, 4)
        assert (result.responses.prompt_tokens, result.responses.completion_tokens) == (130, 65)
        assert sorted(server.prompts().values()) == [1] * 12 + [3, 3]
        assert report.responses.sample[0].answer == "A whole answer."
        # A second revision asks only what was not answered.
        again, _ = prepared(job.next(*splits))
        assert again.responses
        assert (again.responses.requests, again.responses.kept) == (3, 13)
        assert server.prompts()["broken question 9"] == 6
        assert sum(server.prompts().values()) == 12 + 3 + 6


def test_too_many_answers_that_cannot_be_used_fail_the_job_before_all_are_asked(tmp_path: Path, model: str) -> None:
    with endpoint(lambda prompt, _: answer("x", "length" if int(prompt.split()[1]) % 2 else "stop")) as server:
        rows = prompts(*(f"question {number}" for number in range(2000)))
        failure = refused(Job(tmp_path, model, server).next(rows, maxFailed=0.05))
    assert failure.reason is Reason.BAD_DATA
    assert "answers of the teacher so far cannot be used, more than 5 % of" in failure.message
    assert "prompts (distillation.maxFailed): " in failure.message
    assert ": the answer is cut at the limit of tokens; correct the teacher" in failure.message
    assert len(server.asked) < 1000


def test_no_more_is_asked_once_too_many_answers_cannot_be_used(tmp_path: Path, model: str) -> None:
    with endpoint(lambda *_: answer("")) as server:
        splits = prompts(*(f"question {number}" for number in range(200))), prompts("a", "a", "b"), prompts("c")
        job = Job(tmp_path, model, server)
        failure = refused(job.next(*splits, maxFailed=0.05, budget={"maxConcurrency": 4}))
        assert failure.reason is Reason.BAD_DATA
        assert "answers of the teacher so far cannot be used, more than 5 % of 20" in failure.message
        assert 9 <= len(server.asked) <= 16
        # Those that are stored count before anything is asked.
        before = len(server.asked)
        refused(job.next(*splits, maxFailed=0.02))
        assert len(server.asked) == before


def test_a_teacher_that_was_corrected_is_asked_again_without_the_directory_of_the_failure(
    tmp_path: Path, model: str
) -> None:
    replies = [answer("", "length")]
    with endpoint(lambda *_: replies[-1]) as server:
        job, splits = Job(tmp_path, model, server), (prompts("a", "b"), prompts("c"), prompts("d"))
        context = job.next(*splits)
        failure = refused(context)
        directory = context.config.job_layout.answers
        assert failure.message.endswith(f"will be used again: to ask again, delete {directory}")
        replies.append(answer("fine"))
        shutil.rmtree(directory.removeprefix("file://"))
        context = job.next(*splits)
        prepared(context)
    assert learned(context) == [("a", "fine"), ("b", "fine")]


def test_a_budget_that_is_used_up_keeps_the_answers(tmp_path: Path, model: str) -> None:
    with endpoint(lambda _, __: answer("fine")) as server:
        job = Job(tmp_path, model, server)
        splits = prompts(*(f"question {number}" for number in range(8))), prompts("a"), prompts("b")
        failure = refused(job.next(*splits, budget={"maxRequests": 4, "maxConcurrency": 1}))
        assert failure.reason is Reason.BUDGET_EXCEEDED
        assert failure.message == (
            "The budget of 4 requests (distillation.teacher.endpoint.maxRequests) is used up, and 6 questions have no "
            "answer yet; raise it and apply the job again, which asks only these"
        )
        result, _ = prepared(job.next(*splits, budget={"maxRequests": 10}))
    assert result.examples == {"train": 8, "validation": 1, "test": 1}
    assert max(server.prompts().values()) == 1


def test_splits_are_those_of_the_job_without_a_teacher(tmp_path: Path, model: str) -> None:
    rows = [{"prompt": f"question {number}", "completion": f"reference {number}"} for number in range(60)]
    without = a_context(tmp_path / "without", model, CHAT, {"train": {"uri": json_lines(tmp_path / "a.jsonl", rows)}})
    prepared(without)
    with endpoint(lambda prompt, _: answer(prompt.upper())) as server:
        context = Job(tmp_path, model, server).next(rows)
        prepared(context)
    assert learned(context, "test") == learned(without, "test")
    for split in ("train", "validation"):
        assert learned(context, split) == [(prompt, prompt.upper()) for prompt, _ in learned(without, split)]
    # Neither the rows of the data nor those with the answers of the teacher are test rows of a later model.
    hashes = read_learned(stored(context)).by_task["InstructionTuning"]
    before = read_learned(stored(without)).by_task["InstructionTuning"]
    assert len(hashes) == 2 * len(before)
    assert set(before) < set(hashes)


def test_the_teacher_reads_what_the_student_reads_before_its_last_answer() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 4}'}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "4 and 5?"},
        {"role": "assistant", "content": "", "reasoning_content": "I add.", "tool_calls": [call]},
        {"role": "tool", "content": "9", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It is 9."},
        {"role": "user", "content": "And 6 and 1?"},
        {"role": "assistant", "content": "It is 7."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Bye.", "weight": 0},
    ]
    row = conversation(messages, "messages", [tool])
    asked = question(row)
    assert asked.parameters == {"tools": [tool]}
    assert asked.messages == [
        *messages[:2],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "9", "tool_call_id": "c1"},
        *messages[4:6],
    ]
    answered = with_answer(row, "Seven.")
    assert answered.messages == [*row.messages[:6], {"role": "assistant", "content": "Seven."}]
    assert answered.learned == (False, False, True, False, True, False, True)
    assert answered.tools == row.tools


def test_the_last_answer_of_a_conversation_is_replaced(tmp_path: Path, model: str) -> None:
    turns = [("user", "4 and 5?"), ("assistant", "9"), ("user", "6 and 1?"), ("assistant", "8")]
    messages = [{"role": role, "content": text} for role, text in turns]
    with endpoint(lambda prompt, _: answer(f"{prompt} 7")) as server:
        context = Job(tmp_path, model, server).next([{"messages": messages}], prompts("own"), prompts("test"))
        prepared(context)
    assert learned(context) == [("user: 6 and 1?", "6 and 1? 7")]
    assert messages[:3] in [one["messages"] for one in server.asked]


@pytest.mark.parametrize(
    ("task", "row", "asked"),
    [
        ({"type": "Summarization"}, {"text": "A long text."}, "Summarize the text.\n\nA long text."),
        (
            {"type": "Summarization", "instruction": "Shorten."},
            {"text": "A long text.", "summary": 7},
            "Shorten.\n\nA long text.",
        ),
        (
            {"type": "Translation", "sourceLanguage": "en", "targetLanguage": "de"},
            {"translation": {"en": "Good morning."}},
            "Translate the text from English to German.\n\nGood morning.",
        ),
    ],
    ids=["summary", "instruction", "translation"],
)
def test_tasks_with_an_instruction(
    tmp_path: Path, model: str, task: dict[str, Any], row: dict[str, Any], asked: str
) -> None:
    whole = [
        {"text": f"Text {number}.", "summary": "Short.", "translation": {"en": f"Text {number}.", "de": "Kurz."}}
        for number in range(2)
    ]
    with endpoint(lambda _, __: answer("Guten Morgen.")) as server:
        context = Job(tmp_path, model, server, task).next([row], whole[:1], whole[1:])
        prepared(context)
    assert asked in server.prompts()
    assert [found for _, found in learned(context)] == ["Guten Morgen."]


def test_a_text_without_room_is_cut_for_the_teacher_too(tmp_path: Path, model: str) -> None:
    with endpoint(lambda _, __: answer("Short.")) as server:
        rows = [{"text": "long " * 300, "summary": "x"}, {"text": "b", "summary": "x"}, {"text": "c", "summary": "x"}]
        context = Job(tmp_path, model, server, {"type": "Summarization"}).next(*([row] for row in rows))
        prepared(context)
    longest = max(server.prompts(), key=len)
    assert longest.split("\n\n")[1] == open_split(stored(context), "train")["prompt"][0].as_py()
    assert len(longest) < 900


def test_equal_answers_to_equal_prompts_are_in_one_split_once(tmp_path: Path, model: str) -> None:
    """Rows that differ only in their own answers become equal."""
    with endpoint(lambda prompt, _: answer(f"about {prompt}")) as server:
        train = [*prompts("x", completion="1"), *prompts("x", completion="2"), *prompts("y", "z", "w")]
        context = Job(tmp_path, model, server).next(
            train, prompts("y", completion="3"), prompts("z", completion="about z")
        )
        _, report = prepared(context)
    assert learned(context) == [("x", "about x"), ("w", "about w")]
    assert learned(context, "validation") == [("y", "about y")]
    assert (report.duplicates, report.leaked) == (1, 2)
    assert server.prompts() == {"x": 1, "y": 1, "z": 1, "w": 1}


def test_answers_that_read_like_refusals_are_learned_and_listed(tmp_path: Path, model: str) -> None:
    with endpoint(
        lambda prompt, _: answer("I'm sorry, but I can't help with that." if prompt == "b" else "Yes.")
    ) as server:
        context = Job(tmp_path, model, server).next(prompts("a", "b", "c"), prompts("d"), prompts("e"))
        result, report = prepared(context)
    assert ("b", "I'm sorry, but I can't help with that.") in learned(context)
    assert report.responses
    assert [(one.line, one.prompt) for one in report.responses.suspect] == [(2, "b")]
    note = "many answers of the teacher read like a refusal, and are learned: 1 of 4 (train.jsonl:2)"
    assert note in result.notes


def test_a_model_with_an_encoder_learns_no_answer_that_is_too_long_for_it(tmp_path: Path) -> None:
    texts = ["short text", "long " * 20, "no end"]
    save_t5(tmp_path / "t5", [*texts, "a summary"])
    with endpoint(lambda prompt, _: answer("summary " * 30 if prompt.endswith("end") else "a summary")) as server:
        job = Job(tmp_path, (tmp_path / "t5").as_uri(), server, {"type": "Summarization"})
        context = job.next(
            [{"text": text} for text in texts],
            [{"text": "a text"}],
            [{"text": "b text", "summary": "summary"}],
            training={"maxSequenceLength": 16},
        )
        _, report = prepared(context)
    # The teacher reads the whole text, the student its beginning.
    assert f"Summarize the text.\n\n{texts[1]}" in server.prompts()
    assert [answer for _, answer in learned(context)] == ["a summary", "a summary"]
    assert report.splits["train"].truncated == 1
    assert report.responses
    assert [(row.line, row.problem[:30]) for row in report.responses.left_out] == [
        (3, "the summary has 31 tokens, mor")
    ]


def test_tokens_that_the_endpoint_does_not_count_are_noted(tmp_path: Path, model: str) -> None:
    with endpoint(lambda *_: answer("Yes.", usage=False)) as server:
        result, report = prepared(Job(tmp_path, model, server).next(prompts("a"), prompts("b"), prompts("c")))
    assert report.responses
    assert report.responses.estimated == 3
    assert any("did not count the tokens of 3 answers" in note for note in result.notes)


def test_a_dry_run_counts_the_questions_and_asks_none(tmp_path: Path, model: str) -> None:
    with endpoint(lambda _, __: answer("fine")) as server:
        context = Job(tmp_path, model, server).next(prompts("a", "b", completion=None), prompts("c"), prompts("d"))
        context = replace(context, config=context.config.model_copy(update={"dry_run": True}))
        result, report = prepared(context)
        assert not server.asked
    assert report.responses is None
    assert result.notes[0].startswith("the teacher would be asked up to 4 questions, 2 for training, 1 for validation")


def test_data_that_is_prepared_again_is_the_same(tmp_path: Path, model: str) -> None:
    """So that training can resume from its checkpoint."""

    def digest(context: StageContext) -> str:
        _, report = prepared(context)
        manifest = read_manifest(context.config.layout.prepared)
        assert manifest
        return data_digest(manifest, report)

    with endpoint(lambda _, __: answer("fine")) as server:
        job = Job(tmp_path, model, server)
        splits = prompts("a", "b"), prompts("c"), prompts("d")
        assert digest(job.next(*splits)) == digest(job.next(*splits))
