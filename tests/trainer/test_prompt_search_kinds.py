"""A search for a prompt with other kinds of models, of programs that run, and of what another model proposes."""

from __future__ import annotations

import itertools
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.stage import Stage
from finetune_trainer.predict import Request, predict
from tests.endpoint_server import answer, endpoint
from tests.trainer.pair_models import save_t5
from tests.trainer.stages import TinyJob, write_jsonl
from tests.trainer.test_prompt_search import a_job, document, run
from tests.trainer.tiny_models import LABELS, STRONG_INIT, make_texts, save_llama

STAGES = (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)


def scores_on_card(job: TinyJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> dict[str, float]:
    """What the program on the model card says about a text."""
    program = tmp_path / "usage.py"
    program.write_text(job.usage.replace('"path/to/base"', json.dumps(str(job.root / "base"))))
    monkeypatch.chdir(job.artifact)
    found: dict[str, float] = runpy.run_path(str(program))["scores"]({"text": text})
    return found


def check_labels(job: TinyJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`finetune predict` and the program on the card choose the measured labels, from the same probabilities."""
    rows = job.predictions
    found = predict(Request(artifact=job.artifact.as_uri(), rows=[row["text"] for row in rows]), tmp_path).predictions
    assert [one.document["label"] for one in found] == [row["tuned"] for row in rows]
    means = scores_on_card(job, tmp_path, monkeypatch, rows[0]["text"])
    likely = {label: np.exp(mean) / sum(np.exp(one) for one in means.values()) for label, mean in means.items()}
    assert likely == pytest.approx(found[0].document["scores"], abs=1e-4)


def test_an_encoder_and_decoder_ranks_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    save_t5(tmp_path / "base", [text for text, _ in make_texts(60, 1)] + ["what is it", *LABELS])
    job = a_job(tmp_path, {"uri": (tmp_path / "base").as_uri()}, shots=[0, 3], trials=3)
    run(job, *STAGES)
    assert document(job, "data.json", "prepared")["family"] == "seq2seq"
    assert not (job.artifact / "prompt_template.jinja").exists()
    check_labels(job, tmp_path, monkeypatch)


def test_labels_that_the_tokenizer_makes_equal_are_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    save_t5(tmp_path / "base", [text for text, _ in make_texts(60, 1)] + ["fruit"])
    job = a_job(tmp_path, {"uri": (tmp_path / "base").as_uri()}, shots=[0], trials=1)
    run(job, Stage.PREPARE)
    message = job.run(Stage.TRAIN).message
    assert "The label 'weather' has the same tokens as the label 'metal'" in message
    assert "rename the label in the data, or choose another model" in message


def test_a_rounded_model_is_searched_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_llama(tmp_path / "base", STRONG_INIT)
    uri = (tmp_path / "base").as_uri()
    job = a_job(tmp_path, {"uri": uri, "quantization": "NF4"}, shots=[0, 3], trials=2)
    job.spec["training"] = {"precision": "FP32"}
    run(job, *STAGES)
    training = document(job, "training.json")
    assert training["quantization"]["bnb_4bit_quant_type"] == "nf4"
    assert "exactBase" not in job.evaluation
    assert "BitsAndBytesConfig(" in job.usage
    check_labels(job, tmp_path, monkeypatch)


def instruction_job(root: Path, rows: list[dict[str, Any]]) -> TinyJob:
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": {"type": "InstructionTuning"},
            "dataset": {"train": {"uri": write_jsonl(root / "train.jsonl", rows)}, "test": {"fraction": 0.3}},
            "method": {
                "type": "PromptSearch",
                "promptSearch": {"candidates": ["what is it {prompt}", "{prompt}"], "shots": [0, 2], "trials": 3},
            },
            "evaluation": {"publishWorse": True, "generation": {"maxNewTokens": 4}},
            "distributed": {"gpusPerWorker": 0},
            "output": {"uri": (root / "storage").as_uri()},
        },
    )


def test_the_message_of_a_user_is_put_into_a_prompt(tmp_path: Path) -> None:
    save_llama(tmp_path / "base", STRONG_INIT)
    rows = [{"prompt": text, "completion": LABELS[label]} for text, label in make_texts(60, 3)]
    job = instruction_job(tmp_path, rows)
    run(job, *STAGES)
    assert {metric["name"] for metric in job.evaluation["metrics"]} == {"rouge_l", "exact_match"}
    assert (job.artifact / "prompt_template.jinja").exists()
    measured = job.predictions
    found = predict(Request(artifact=job.artifact.as_uri(), rows=[row["prompt"] for row in measured]), tmp_path)
    assert [one.text for one in found.predictions] == [row["tuned"] for row in measured]


def test_a_row_that_is_no_question_with_its_answer_is_refused(tmp_path: Path) -> None:
    save_llama(tmp_path / "base", STRONG_INIT)
    turns = [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "fruit"}]
    with_system = [{"role": "system", "content": "it is"}, *turns]
    rows = [{"messages": turns}, {"messages": with_system}, {"messages": [*turns, *turns]}]
    message = instruction_job(tmp_path, rows).run(Stage.PREPARE).message
    assert "train.jsonl:2" in message
    assert "this one has the messages system, user, assistant: remove its system message" in message


PROGRAMS = [
    {
        "prompt": f"def plus_{number}(x):\n",
        "completion": f"    return x + {number}\n",
        "tests": f"assert plus_{number}(1) == {number + 1}",
    }
    for number in range(40)
]


def coder(prompt: str, _: int) -> Any:
    """Writes a right program only if it is asked for Python."""
    number = prompt.rpartition("plus_")[2].partition("(")[0]
    return answer(f"    return x + {number}\n" if prompt.startswith("# Python") else "    return None\n")


def test_programs_run_and_another_model_proposes(tmp_path: Path) -> None:
    # One in two has a place that there is not.
    proposals = itertools.cycle(["# Python\n{prompt}", "Write {language}: {prompt}"])
    with endpoint(coder) as server, endpoint(lambda *_: answer(next(proposals))) as other:
        job = TinyJob(
            tmp_path,
            {
                "model": {"endpoint": {"url": server.url, "model": "m"}},
                "task": {"type": "CodeGeneration"},
                "dataset": {"train": {"uri": write_jsonl(tmp_path / "train.jsonl", PROGRAMS)}},
                "method": {
                    "type": "PromptSearch",
                    "promptSearch": {
                        "candidates": ["Go on: {prompt}"],
                        "propose": 2,
                        "proposer": {"url": other.url, "model": "p"},
                        "shots": [0],
                        "examples": 4,
                    },
                },
                "evaluation": {"allowCodeExecution": True, "metrics": ["pass_at_1"]},
                "output": {"uri": (tmp_path / "storage").as_uri()},
            },
        )
        run(job, *STAGES)
        asked = len(other.asked)
        assert other.asked[0]["messages"][0]["content"].startswith("Somebody answers texts like this")
    record = document(job, "search.json")
    assert record["candidates"] == ["Go on: {prompt}", "# Python\n{prompt}"]
    assert record["proposed"] == 1
    assert record["dropped"] == asked - 1
    score = job.evaluation["metrics"][0]
    assert (score["name"], score["baseline"], score["tuned"]) == ("pass_at_1", 0.0, 1.0)
    assert set(job.evaluation["details"]["endings"]["tuned"]) == {"Passed"}
    assert any("only 1 of the 2 candidates of method.promptSearch.propose" in one for one in job.evaluation["notes"])
    page = (job.artifact / "report.html").read_text()
    assert f"p at {other.url} has proposed 1 of the instructions" in page
    assert "were dropped" in page
