"""A search for a prompt of tasks whose answers are generated."""

from __future__ import annotations

import itertools
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import Stage
from finetune_trainer.predict import Request, predict
from tests.trainer.code_models import byte_level_tokenizer
from tests.trainer.pair_models import save_marian, save_t5
from tests.trainer.stages import TinyJob, write_jsonl
from tests.trainer.tiny_models import WORDS, tiny_llama

_WORDS = [word for group in WORDS.values() for word in group.split()]
STAGES = (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)


def save_plain_causal(directory: Path, texts: list[str]) -> None:
    """A Llama of two layers without a chat template."""
    tokenizer = byte_level_tokenizer(texts)
    tiny_llama(tokenizer, max_position_embeddings=256, initializer_range=0.15).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def a_job(root: Path, task: dict[str, Any], rows: list[dict[str, Any]], candidates: list[str]) -> TinyJob:
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": task,
            "dataset": {"train": {"uri": write_jsonl(root / "train.jsonl", rows)}, "test": {"fraction": 0.2}},
            "method": {
                "type": "PromptSearch",
                "promptSearch": {"candidates": candidates, "shots": [2], "trials": 2, "examples": 4},
            },
            "evaluation": {"publishWorse": True, "generation": {"maxNewTokens": 8}},
            "distributed": {"gpusPerWorker": 0},
            "output": {"uri": (root / "storage").as_uri()},
        },
    )


def published(job: TinyJob) -> TinyJob:
    for stage in STAGES:
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job


def check_answers(job: TinyJob, inputs: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `finetune predict` and the program on the card answer to test rows is what was measured."""
    measured = [row["tuned"] for row in job.predictions]
    found = predict(Request(artifact=job.artifact.as_uri(), rows=inputs), tmp_path).predictions
    assert [one.text for one in found] == measured
    program = tmp_path / "usage.py"
    program.write_text(job.usage.replace('"path/to/base"', json.dumps(str(job.root / "base"))))
    monkeypatch.chdir(job.artifact)
    answer = runpy.run_path(str(program))["answer"]
    assert [answer(one) for one in inputs[:3]] == measured[:3]


def test_summaries_of_a_decoder_without_a_chat_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"text": f"{one} and {other} with braces {{text}}", "summary": f"{one} {other}"}
        for one, other in zip(_WORDS, reversed(_WORDS), strict=True)
        if one != other
    ]
    save_plain_causal(tmp_path / "base", [row["text"] for row in rows])
    job = a_job(tmp_path, {"type": "Summarization"}, rows, ["In short, {text}:", "{text} TL;DR"])
    job.spec["method"]["promptSearch"] |= {"propose": 2}
    published(job)
    record = json.loads((job.artifact / "search.json").read_text())
    assert len(record["candidates"]) == 2 + record["proposed"] > 2
    assert all("{text}" in candidate for candidate in record["candidates"])
    prompt = json.loads((job.artifact / "prompt.json").read_text())
    assert prompt["empty_line_ends"]
    assert len(prompt["examples"]) == 2
    assert not any("\n\n" in row["tuned"] for row in job.predictions)
    check_answers(job, [{"text": row["prompt"]} for row in job.predictions], tmp_path, monkeypatch)


def test_answers_of_a_t5_to_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"question": f"what is after {one}", "context": f"{one} {other} and more", "answers": [other]}
        for one, other in itertools.pairwise(_WORDS)
    ]
    (tmp_path / "base").mkdir()
    save_t5(
        tmp_path / "base", [text for row in rows for text in (row["question"], row["context"], "question: context:")]
    )
    candidates = ["{context} {question}", "question: {question} context: {context}"]
    job = published(a_job(tmp_path, {"type": "QuestionAnswering"}, rows, candidates))
    inputs = [{"question": row["question"], "context": row["context"]} for row in job.predictions]
    check_answers(job, inputs, tmp_path, monkeypatch)


def test_code_of_a_decoder(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"def {word}(x):\n", "completion": f"    return x + {place}\n"} for place, word in enumerate(_WORDS)
    ]
    save_plain_causal(tmp_path / "base", [row["prompt"] + row["completion"] for row in rows])
    job = published(a_job(tmp_path, {"type": "CodeGeneration"}, rows, ["# Python\n{prompt}", "{prompt}"]))
    assert len(json.loads((job.artifact / "prompt.json").read_text())["examples"]) == 2
    card = (job.artifact / "README.md").read_text()
    assert "| Metric | Baseline | Best prompt |" in card
    assert [word for word in ("trained on", "used for training", "Tuned", "tuned model") if word in card] == []
    row = job.predictions[0]
    found = predict(Request(artifact=job.artifact.as_uri(), rows=[row["prompt"]]), tmp_path).predictions
    assert row["tuned"].rstrip() in found[0].text


def test_a_model_that_follows_no_instruction_is_refused(tmp_path: Path) -> None:
    rows = [{"source": f"the {word}", "target": f"das {word}"} for word in _WORDS]
    save_marian(tmp_path / "base", [row["source"] for row in rows], [row["target"] for row in rows])
    job = a_job(tmp_path, {"type": "Translation", "targetLanguage": "de"}, rows, ["{source}"])
    assert "reads the text alone, and follows no instruction" in job.run(Stage.PREPARE).message
