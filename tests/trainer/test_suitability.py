"""How well base models suit tasks, on tiny real models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import Stage
from finetune_trainer.suitability import Request, suitability
from tests.trainer.pair_models import save_t5
from tests.trainer.preference_fixtures import preference_job
from tests.trainer.qa_fixtures import heart_job
from tests.trainer.stages import TinyJob, instruction_job, merged, write_jsonl
from tests.trainer.tiny_models import make_texts, save_llama


def translation_job(root: Path) -> TinyJob:
    texts = [f"one {word} two" for word in ("red", "green", "blue", "black", "white")]
    save_t5(root / "base", texts)
    rows = [{"source": f"{text} {number}", "target": f"{text} one"} for number in range(12) for text in texts]
    spec: dict[str, Any] = {
        "model": {"uri": (root / "base").as_uri()},
        "task": {"type": "Translation", "targetLanguage": "de"},
        "dataset": {"train": {"uri": write_jsonl(root / "train.jsonl", rows)}},
        "output": {"uri": (root / "storage").as_uri()},
    }
    return TinyJob(root, spec)


def text_job(root: Path) -> TinyJob:
    save_llama(root / "base")
    rows = [{"text": text} for text, _ in make_texts(200, 1)]
    spec = {
        "model": {"uri": (root / "base").as_uri()},
        "task": {"type": "LanguageModeling"},
        "dataset": {"train": {"uri": write_jsonl(root / "train.jsonl", rows)}},
        "output": {"uri": (root / "storage").as_uri()},
    }
    return TinyJob(root, spec)


def question_job(root: Path) -> TinyJob:
    rows = [
        {"question": f"who saw {name}", "context": f"on day {day} {name} saw it", "answers": [name]}
        for day in range(10)
        for name in ("anna", "bert", "carl", "dora")
    ]
    return heart_job(root, rows)


def kto_job(root: Path) -> TinyJob:
    return preference_job(root, "KTO")


def dpo_job(root: Path) -> TinyJob:
    return preference_job(root, "DPO")


def found(job: TinyJob, scratch: Path, rows: int = 200, **changes: Any) -> dict[str, Any]:
    job = TinyJob(job.root, merged(job.spec, changes), job.name)
    request = {"config": job.config(Stage.PREPARE), "rows": rows}
    scratch.mkdir()
    return suitability(Request.model_validate_json(json.dumps(request)), scratch)


@pytest.mark.parametrize("make", [instruction_job, translation_job, text_job, dpo_job, kto_job])
def test_models_of_text_are_measured_by_their_loss_for_each_byte(
    make: Callable[[Path], TinyJob], tmp_path: Path
) -> None:
    root = tmp_path / "job"
    root.mkdir()
    score = found(make(root), tmp_path / "scratch")
    assert (score["measure"], score["higherIsBetter"]) == ("bits per byte, zero-shot", False)
    # A random model of a few dozen words of four letters: about log2(words) / 4.
    assert 0.5 < score["value"] < 8
    assert 0 < score["rows"] < 60
    assert score["parameters"] > 0


def test_an_encoder_that_answers_questions_is_measured_by_a_linear_probe(tmp_path: Path) -> None:
    # That of a classifier: tests/trainer/test_advise.py.
    root = tmp_path / "job"
    root.mkdir()
    score = found(question_job(root), tmp_path / "scratch")
    assert score["measure"].startswith("SQuAD F1 of the ")
    assert score["higherIsBetter"]
    assert 0 < score["value"] <= 1


def test_no_more_rows_than_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "job"
    root.mkdir()
    assert found(instruction_job(root), tmp_path / "scratch", rows=7)["rows"] == 7
