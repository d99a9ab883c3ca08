"""A teacher behind an endpoint that writes code, answers questions about a text, and labels texts: in prepare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_trainer.splits import open_split
from tests.endpoint_server import answer, endpoint
from tests.trainer.code_models import byte_level_tokenizer, save_llama_with
from tests.trainer.pair_models import save_t5
from tests.trainer.prepare_fixtures import MARKED_TEMPLATE, a_chat_model, prepared, refused, stored
from tests.trainer.qa_fixtures import save_encoder
from tests.trainer.responses_fixtures import Job, learned, measured
from tests.trainer.tiny_models import save_bert

PROMPTS = [f"def double{number}(x):\n" for number in range(9)]
BODY = "    return 2 * x\n"
CODE_ANSWERS = [
    f"```python\n{BODY}```",
    f"Here it is:\n\n```python\n{PROMPTS[1]}{BODY}```\nIt doubles x.",
    BODY,
    f"```python\n{BODY}```\nor\n```python\n    return x + x\n```",
    f"```python\n{BODY}",
    "```python\n    return 3 * x\n```",
    "```python\n    return 2 *\n```",
    f"```python\n{PROMPTS[7]}```",
    f"<think>Two times x.</think>\n\n{BODY}",
]


def code_row(number: int, **fields: str) -> dict[str, str]:
    return {"prompt": PROMPTS[number], "tests": f"assert double{number}(3) == 6\n", **fields}


def test_code_is_learned_to_the_character_and_only_if_it_passes_its_tests(tmp_path: Path) -> None:
    save_llama_with(tmp_path / "llama", byte_level_tokenizer([PROMPTS[0] + BODY]))
    with endpoint(lambda prompt, _: answer(CODE_ANSWERS[int(prompt.split("double")[1][0])])) as server:
        job = Job(tmp_path, (tmp_path / "llama").as_uri(), server, {"type": "CodeGeneration"})
        context = job.next(
            # The completion in the data is not used, so it need not pass.
            [code_row(0, completion="    return 7\n"), *(code_row(number) for number in range(1, 8))],
            [code_row(8)],
            [code_row(0, completion=BODY)],
            evaluation={"allowCodeExecution": True},
        )
        _, report = prepared(context)
    asked = f"Write the Python code that comes next, and nothing else.\n\n{PROMPTS[1]}"
    assert asked in server.prompts()
    table = open_split(stored(context), "train").to_pylist()
    assert [(row["prompt"], row["reference"]) for row in table] == [(prompt, BODY) for prompt in PROMPTS[1:3]]
    assert [row["reference"] for row in open_split(stored(context), "validation").to_pylist()] == [BODY]
    assert report.responses
    problems = {row.line: row.problem for row in report.responses.left_out}
    assert problems == {
        4: "the answer has 2 fenced blocks of code, not one",
        5: "the fenced block of code in the answer does not end",
        6: "the answer fails the tests of its row (AssertionError in line 1 of the tests (assert double5(3) == 6))",
        7: "the answer is no Python after its prompt, or has a syntax error",
        8: "the answer has no code besides its prompt",
    }
    assert measured(context)[0]["answer"] == CODE_ANSWERS[0]
    assert report.leaked == 1  # Row 1, which is the test row as well once it is answered.


def test_wrong_code_is_learned_where_no_program_may_run(tmp_path: Path) -> None:
    save_llama_with(tmp_path / "llama", byte_level_tokenizer([PROMPTS[0] + BODY]))
    with endpoint(lambda *_: answer("```\n    return 3 * x\n```")) as server:
        job = Job(tmp_path, (tmp_path / "llama").as_uri(), server, {"type": "CodeGeneration"})
        context = job.next([code_row(0)], [code_row(1)], [code_row(2, completion=BODY)])
        prepared(context)
    assert [row["reference"] for row in open_split(stored(context), "train").to_pylist()] == ["    return 3 * x\n"]


PARIS = {"question": "where is it", "context": "it is in Paris . not in Rome"}


def question(name: str, **fields: Any) -> dict[str, Any]:
    return {**PARIS, "question": f"where is {name}", **fields}


def write_place(prompt: str, _: int) -> Any:
    name = prompt.rsplit(" ", 1)[1]
    return answer(
        {"none": "Unanswerable.", "other": "London", "quoted": '"Paris".', "inside": '"Paris."'}.get(name, " Paris\n")
    )


def question_model(directory: Path, family: str) -> str:
    texts = ["where is it none other quoted own", PARIS["context"], "Paris London unanswerable question: context:"]
    if family == "encoder":
        save_encoder(directory, "words", texts)
    elif family == "seq2seq":
        save_t5(directory, texts)
    else:
        a_chat_model(directory, MARKED_TEMPLATE, positions=1024)
    return directory.as_uri()


@pytest.mark.parametrize("family", ["causal", "seq2seq", "encoder"])
def test_questions_get_the_answers_of_the_teacher_or_none(tmp_path: Path, family: str) -> None:
    rows = [question("it", answers=["Rome"]), *(question(name) for name in ("none", "other", "quoted", "inside"))]
    with endpoint(write_place) as server:
        task = {"type": "QuestionAnswering"}
        job = Job(tmp_path, question_model(tmp_path / "model", family), server, task)
        context = job.next(rows, [question("own")], [question("own it", answers=["Paris"])])
        _, report = prepared(context)
    (asked,) = (prompt for prompt in server.prompts() if prompt.endswith("is none"))
    assert asked.endswith(f"\n\nContext: {PARIS['context']}\n\nQuestion: where is none")
    assert "If the context does not have the answer, write unanswerable." in asked
    found = {row["question"][9:]: row["answers"] for row in open_split(stored(context), "train").to_pylist()}
    whole = {"it": '["Paris"]', "none": "[]"}
    left_out = [] if report.responses is None else [(row.line, row.problem) for row in report.responses.left_out]
    if family == "encoder":
        assert found == {**whole, "quoted": '["Paris"]', "inside": '["Paris"]'}
        assert left_out == [(3, "the answer does not stand in the context word for word ('London')")]
    else:
        quoted = {"quoted": '["\\"Paris\\"."]', "inside": '["\\"Paris.\\""]'}
        assert found == {**whole, "other": '["London"]', **quoted}
        assert not left_out
    if family == "causal":
        assert ("Question: where is none", "unanswerable") in learned(context)


def label(prompt: str, _: int) -> Any:
    words = prompt.rsplit("\n\n", 1)[1].split()
    return answer({"apple": " Fruit.", "iron": "METAL", "rain": "weather", "fog": "It is fog."}[words[0]])


TEXTS = [{"text": text} for text in ("apple one", "apple two", "iron one", "rain one", "fog one")]
LABELLED = [{"text": "iron two", "label": "metal"}, {"text": "rain two", "label": "fruit"}]


def classifier(root: Path, **task: Any) -> tuple[str, dict[str, Any]]:
    save_bert(root / "bert")
    return (root / "bert").as_uri(), {"type": "TextClassification", **task}


def test_texts_without_labels_get_those_of_the_teacher(tmp_path: Path) -> None:
    with endpoint(label) as server:
        model, task = classifier(tmp_path, labels=["weather", "metal", "fruit"])
        labels = {"iron three": "metal", "apple four": "fruit", "fog four": "weather"}
        test = [{"text": text, "label": label} for text, label in labels.items()]
        context = Job(tmp_path, model, server, task).next([*TEXTS, *LABELLED], [{"text": "rain four"}], test)
        result, report = prepared(context)
    assert "Classify the text. Answer with one of: weather, metal, fruit.\n\napple one" in server.prompts()
    assert report.splits["train"].label_counts == {"weather": 2, "metal": 2, "fruit": 2}
    assert report.responses
    problems = [(row.line, row.problem) for row in report.responses.left_out]
    assert problems == [(5, "the answer is no label ('It is fog.')")]
    assert "the teacher labels 3 of 4 rows as the data does (75 %)" in result.notes
    # What would not be learned is measured as if there was no answer.
    assert [(one["answer"] or "").strip() for one in measured(context)] == ["METAL", "Fruit.", ""]
    assert measured(context)[2]["problem"] == "the answer is no label ('It is fog.')"


def test_labels_come_from_the_rows_that_have_one(tmp_path: Path) -> None:
    with endpoint(label) as server:
        model, task = classifier(tmp_path)
        job = Job(tmp_path, model, server, task)
        context = job.next([*TEXTS[:3], *LABELLED], [{"text": "iron four"}], [{"text": "apple four", "label": "fruit"}])
        _, report = prepared(context)
        assert report.labels == ("fruit", "metal")
        assert report.splits["train"].label_counts == {"fruit": 2, "metal": 2}
        # No row has a label, and task.labels is not set.
        found = refused(job.next(TEXTS, [{"text": "iron four"}], [{"text": "apple four", "label": "fruit"}]))
    assert found.reason is Reason.BAD_DATA
    assert "train.jsonl has a label, so the labels that the teacher chooses from are not known" in found.message
    assert "task.labels" in found.message


def test_lists_of_labels(tmp_path: Path) -> None:
    replies = {"a": '["metal", "Fruit"]', "b": "fruit, metal", "c": "[]", "d": "metal", "e": "fruit, iron", "f": "[1]"}
    with endpoint(lambda prompt, _: answer(replies[prompt[-1]])) as server:
        model, task = classifier(tmp_path, labels=["fruit", "metal"], multiLabel=True)
        rows = [{"text": f"text {name}"} for name in replies]
        rows[0]["label"] = ["fruit", "metal"]  # type: ignore[assignment]
        test = [{"text": "own a", "label": ["fruit"]}]
        context = Job(tmp_path, model, server, task).next(rows, [{"text": "own b"}], test)
        result, report = prepared(context)
    found = [sorted(row["labels"]) for row in open_split(stored(context), "train").to_pylist()]
    assert found == [[0, 1], [0, 1], [], [1]]
    assert report.responses
    assert [(row.line, row.problem) for row in report.responses.left_out] == [
        (5, "the answer is no list of labels ('fruit, iron')"),
        (6, "the answer is no list of labels ('[1]')"),
    ]
    assert "the teacher labels 1 of 2 rows as the data does (50 %)" in result.notes


def test_settings_of_answers_and_their_cost(tmp_path: Path) -> None:
    with endpoint(label) as server:
        model, task = classifier(tmp_path, labels=["fruit", "metal", "weather"])
        job = Job(tmp_path, model, server, task)
        splits = TEXTS[:4], [{"text": "iron four"}], [{"text": "apple four", "label": "fruit"}]
        prepared(job.next(*splits))
        assert not any({"temperature", "max_tokens"} & set(one) for one in server.asked)
        settings = {"temperature": 0.0, "maxNewTokens": 7, "prices": {"input": 50, "output": 1000}}
        result, _ = prepared(job.next(*splits, teacher=settings))
        # Other settings are other questions.
        assert len(server.asked) == 12
        assert all((one["temperature"], one["max_tokens"]) == (0.0, 7) for one in server.asked[6:])
        again, _ = prepared(job.next(*splits, teacher={**settings, "prices": {"input": 0, "output": 0}}))
        assert len(server.asked) == 12
    assert result.responses
    assert again.responses
    # 6 answers of 10 + 5 tokens.
    assert (result.responses.cost, result.responses.currency) == (pytest.approx(6 * (10 * 50 + 5 * 1000) / 1e6), "USD")
    assert again.responses.cost == 0


@pytest.mark.parametrize(
    ("task", "train", "test"),
    [
        ({"labels": ["fruit", "metal"]}, TEXTS, {"text": "iron three", "label": "metal"}),
        ({"labels": ["fruit", "metal"], "multiLabel": True}, TEXTS, {"text": "iron three", "label": ["metal"]}),
        ({"type": "CodeGeneration"}, [code_row(1), code_row(2)], code_row(3, completion=BODY)),
        ({"type": "QuestionAnswering"}, [question("it"), question("none")], question("own", answers=["Paris"])),
    ],
    ids=["labels", "lists", "code", "questions"],
)
def test_a_dry_run_needs_no_answers(
    tmp_path: Path, task: dict[str, Any], train: list[dict[str, Any]], test: dict[str, Any]
) -> None:
    with endpoint(lambda *_: answer("")) as server:
        if "labels" in task:
            model, task = classifier(tmp_path, **task)
        elif task["type"] == "QuestionAnswering":
            model = question_model(tmp_path / "model", "encoder")
        else:
            save_llama_with(tmp_path / "llama", byte_level_tokenizer([PROMPTS[0] + BODY]))
            model = (tmp_path / "llama").as_uri()
        validation = [{**train[0], "text": "other", "prompt": PROMPTS[4], "question": "who is it"}]
        context = Job(tmp_path, model, server, task).next(train, validation, [test])
        result, _ = prepared(replace(context, config=context.config.model_copy(update={"dry_run": True})))
        assert not server.asked
    count = len(train)
    asked = f"the teacher would be asked up to {count + 2} questions, {count} for training, 1 for validation, and 1"
    assert result.notes[0].startswith(asked)
    assert not any("syntax error" in note or "label" in note for note in result.notes)
