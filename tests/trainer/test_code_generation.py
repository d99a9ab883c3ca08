"""CodeGeneration end to end, with programs that run, on a decoder and on a model with an encoder and a decoder."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from finetune_api.tables.code import CodeLanguage
from finetune_trainer.predict import Request, predict
from finetune_trainer.splits import open_split
from finetune_trainer.tasks.code_generation.texts import sample
from tests.trainer.code_models import byte_level_tokenizer, save_llama_with
from tests.trainer.pair_models import save_t5_with
from tests.trainer.stages import TinyJob, write_jsonl
from tests.usual_stages import STAGES

ROWS = [
    ("def area(w, h):\n", "    return w * h\n", "assert area(2, 3) == 6\n"),
    ("class Box:\n    def side(self):\n", "        return 4\n", "assert Box().side() == 4\n"),
    ("def sign(x):\n    if x < 0:\n", "        return -1\n    return 1\n", "assert sign(-2) == -1 and sign(2) == 1\n"),
    ("def join(a):\n", "    text = '''\n  two  \n'''\n    return text.join(a)\n", "assert len(join('ab')) == 11\n"),
    ("for i in range(2):\n", "    last = i\n", "assert last == 1\n"),
    ("n = 3\n", "m = n + 1\n", ""),
]


def by_heart(root: Path, model: str) -> TinyJob:
    """Learn a few programs, and run all stages."""
    tokenizer = byte_level_tokenizer([prompt + completion for prompt, completion, _ in ROWS])
    if model == "t5":
        save_t5_with(root / "base", tokenizer, width=64)
    else:
        save_llama_with(root / "base", tokenizer)
    rows = [dict(zip(("prompt", "completion", "tests"), row, strict=True)) for row in ROWS]
    uri = {"uri": write_jsonl(root / "rows.jsonl", rows)}
    spec: dict[str, Any] = {
        "model": {"uri": (root / "base").as_uri()},
        "task": {"type": "CodeGeneration"},
        "dataset": {"train": uri, "validation": uri, "test": uri, "cleaning": {"deduplicate": "None"}},
        "method": {"type": "Full"},
        "training": {
            "maxSteps": 100,
            "evaluateEverySteps": 50,
            "batchSize": 6,
            "learningRate": 5e-3,
            "maxSequenceLength": 128,
        },
        "evaluation": {
            "allowCodeExecution": True,
            "metrics": ["pass_at_1", "exact_match", "parses", "chrf"],
            "duringTraining": {"examples": 4},
            "generation": {"maxNewTokens": 48, **({} if model == "t5" else {"samples": 2, "temperature": 0.01})},
        },
        "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
        "output": {"uri": (root / "storage").as_uri(), "keep": {"preparedData": True}},
    }
    job = TinyJob(root, spec, model)
    for stage in STAGES:
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job


@pytest.fixture(scope="module", params=["llama", "t5"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return by_heart(tmp_path_factory.mktemp(request.param), request.param)


def test_programs_are_learned_by_heart(tuned: TinyJob) -> None:
    metrics = {metric["name"]: metric for metric in tuned.evaluation["metrics"]}
    assert {name: metric["tuned"] for name, metric in metrics.items()} == pytest.approx(
        {"pass_at_1": 1, "exact_match": 1, "parses": 1, "chrf": 100}
    )
    assert metrics["pass_at_1"]["baseline"] == 0


def test_every_byte_of_a_completion_is_learned(tuned: TinyJob) -> None:
    """Case 17."""
    tokenizer = AutoTokenizer.from_pretrained(tuned.revision / "prepared" / "tokenizer")
    table = open_split(tuned.revision / "prepared", "train").to_pylist()
    assert len(table) == len(ROWS)
    for row in table:
        *code, end = [token for token in row["labels"] if token != -100]
        assert end == tokenizer.eos_token_id
        assert (row["prompt"], tokenizer.decode(code), row["tests"]) in ROWS
        if "t5" not in tuned.name:
            assert tokenizer.decode(row["input_ids"][: row["prompt_length"]]) == row["prompt"]


def test_the_evaluation_says_what_was_run(tuned: TinyJob) -> None:
    details, samples = tuned.evaluation["details"], 1 if tuned.name == "t5" else 2
    assert (details["rowsWithTests"], details["rows"]) == (5, 6)
    assert details["endings"]["tuned"] == {"Passed": 5 * samples}
    assert details["sandbox"]
    assert "open" in details["stopRule"]
    failed = tuned.predictions[0]["outcomes"]["baseline"]
    assert len(failed) == samples
    assert failed[0]["detail"]


def test_training_measures_what_runs_nothing(tuned: TinyJob) -> None:
    history = json.loads((tuned.revision / "trained" / "history.json").read_text())
    assert set(history["validation"][-1]["metrics"]) == {"exact_match", "parses", "chrf"}


def test_the_report_shows_programs_and_what_failed(tuned: TinyJob) -> None:
    report = (tuned.artifact / "report.html").read_text()
    assert "<pre>\n    return w * h\n</pre>" in report
    assert "<pre>\nclass Box:\n    def side(self):\n</pre>" in report
    assert ("the first one of several" in report) is (tuned.name != "t5")
    assert "How the programs ended" in report


def test_the_card_shows_a_program_and_what_failed(tuned: TinyJob) -> None:
    card = (tuned.artifact / "README.md").read_text()
    section = card.partition("## Examples")[2].partition("## Use")[0]
    gained = next(row for row in tuned.predictions if row.get("tests"))
    assert "**Only the tuned model passes.** Prompt:" in section
    assert f"```text\n{gained['prompt']}```" in section
    assert "Tuned (passed):" in section
    assert gained["tuned"].strip() in section
    assert gained["outcomes"]["baseline"][0]["ending"].lower() in section


def test_predictions_are_those_of_the_evaluation(tuned: TinyJob, tmp_path: Path) -> None:
    rows = [{"prompt": prompt} if number % 2 else prompt for number, (prompt, *_) in enumerate(ROWS)]
    found = predict(Request(artifact=tuned.artifact.as_uri(), rows=rows), tmp_path).predictions
    assert [(one.document["prompt"], one.document["completion"]) for one in found] == [row[:2] for row in ROWS]


def test_the_program_of_the_card_prints_the_code(tuned: TinyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tuned.usage.replace(sample(CodeLanguage.PYTHON).replace("\n", "\\n"), "def area(w, h):\\n")
    assert program != tuned.usage
    monkeypatch.chdir(tuned.artifact)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "README.md", "exec"), {})
    assert output.getvalue().rstrip("\n") == "    return w * h"
