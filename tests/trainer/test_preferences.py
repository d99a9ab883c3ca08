"""PreferenceTuning from the data to the artifact: what evaluate measures, and what a user gets."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.stage import Stage
from finetune_trainer.predict import Request, predict
from finetune_trainer.splits import open_split
from tests.trainer.conftest import prepared
from tests.trainer.preference_fixtures import preference_job
from tests.trainer.stages import TinyJob


def run(root: Path, loss: str, *stages: Stage) -> TinyJob:
    """A job after these stages."""
    job = prepared(preference_job(root, loss))
    for stage in stages:
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return run(tmp_path_factory.mktemp("dpo"), "DPO", Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)


def metrics_of(job: TinyJob) -> dict[str, dict[str, Any]]:
    return {metric["name"]: metric for metric in job.evaluation["metrics"]}


def test_log_probabilities_are_those_of_a_plain_program(tuned: TinyJob) -> None:
    """Sums over all tokens of the answer, its end included, given the prompt."""
    tokenizer = AutoTokenizer.from_pretrained(tuned.artifact)
    base = AutoModelForCausalLM.from_pretrained(tuned.root / "base")
    model = PeftModel.from_pretrained(base, tuned.artifact).eval()
    for row in tuned.predictions[:3]:
        for answer in ("chosen", "rejected"):
            message = {"role": "user", "content": row["prompt"]}
            prompt = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=True)["input_ids"]
            tokens = [*prompt, *tokenizer(row[answer])["input_ids"], tokenizer.eos_token_id]
            with torch.no_grad():
                found = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            total = sum(float(found[at - 1, tokens[at]]) for at in range(len(prompt), len(tokens)))
            assert row["logProbabilities"][answer]["tuned"] == pytest.approx(total, abs=1e-3)


def test_metrics_follow_from_the_rows(tuned: TinyJob) -> None:
    metrics = metrics_of(tuned)
    assert list(metrics) == ["preferred", "preferred_per_token", "reward_accuracy", "margin"]
    rows = tuned.predictions
    sums = {
        model: np.array([[row["logProbabilities"][name][model] for name in ("chosen", "rejected")] for row in rows])
        for model in ("baseline", "tuned")
    }
    for model, found in sums.items():
        assert metrics["preferred"][model] == pytest.approx(np.mean(found[:, 0] > found[:, 1]))
    rewards = 0.1 * (sums["tuned"] - sums["baseline"])
    assert metrics["reward_accuracy"]["tuned"] == pytest.approx(np.mean(rewards[:, 0] > rewards[:, 1]))
    assert metrics["margin"]["tuned"] == pytest.approx(np.mean(rewards[:, 0] - rewards[:, 1]))
    for name, neutral in (("reward_accuracy", 0.5), ("margin", 0)):
        assert "baseline" not in metrics[name]
        assert metrics[name]["measuredAgainst"] == "BaseModel"
        assert metrics[name]["change"] == pytest.approx(metrics[name]["tuned"] - neutral)
        low, high = metrics[name]["interval"]
        assert low <= metrics[name]["change"] <= high
    assert metrics["margin"]["interval"][0] > 0


def slices_of(job: TinyJob) -> dict[str, dict[str, float]]:
    """The metrics of the tuned model for each topic."""
    (table,) = job.evaluation["details"]["slices"]
    assert {value["value"]: value["examples"] for value in table["values"]} == {
        topic: len(rows_of(job, topic)) for topic in ("any", "right")
    }
    return {
        value["value"]: {metric["name"]: metric["tuned"] for metric in value["metrics"]} for value in table["values"]
    }


def rows_of(job: TinyJob, topic: str) -> list[dict[str, Any]]:
    """The predictions for the test rows of a topic."""
    topics = open_split(job.revision / "prepared", "test")["slices"].to_pylist()
    return [row for row, found in zip(job.predictions, topics, strict=True) if json.loads(found) == [topic]]


def test_pairs_are_measured_by_slice(tuned: TinyJob) -> None:
    for topic, found in slices_of(tuned).items():
        rows = rows_of(tuned, topic)
        sums = np.array([[row["logProbabilities"][name]["tuned"] for name in ("chosen", "rejected")] for row in rows])
        rewards = np.array([[row["rewards"][name] for name in ("chosen", "rejected")] for row in rows])
        assert found["preferred"] == pytest.approx(np.mean(sums[:, 0] > sums[:, 1]))
        assert found["margin"] == pytest.approx(np.mean(rewards[:, 0] - rewards[:, 1]))


def test_the_first_loss_is_that_of_an_untrained_pair(tuned: TinyJob) -> None:
    assert tuned.losses()[0] == pytest.approx(math.log(2), abs=1e-6)
    assert tuned.losses()[-1] < 0.68


def test_the_report_shows_both_answers_side_by_side(tuned: TinyJob) -> None:
    page = (tuned.artifact / "report.html").read_text()
    assert "Largest gains" in page
    assert "DPO, beta 0.1" in page
    assert "so that it has no score in them" in page
    row = max(tuned.predictions, key=lambda row: row["scores"]["margin"]["tuned"])
    shown = page[page.index("Largest gains") :].partition("</article>")[0]
    assert row["chosen"] in shown
    assert row["rejected"] in shown


def test_the_program_on_the_card_gives_the_answer_of_predict(
    tuned: TinyJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tuned.usage
    assert "path/to/base" in program
    program = program.replace("path/to/base", str(tuned.root / "base"))
    prompt = tuned.predictions[0]["prompt"]
    assert "A question" in program
    program = program.replace("A question", prompt)
    monkeypatch.chdir(tuned.artifact)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "README.md", "exec"), {})
    found = predict(Request(artifact=tuned.artifact.as_uri(), rows=[prompt, {"prompt": prompt}]), tmp_path).predictions
    assert [one.text.strip() for one in found] == [output.getvalue().strip()] * 2
    assert found[0].document["prompt"] == prompt


def test_kto_measures_rewards_of_single_answers(tmp_path: Path) -> None:
    job = run(tmp_path, "KTO", Stage.TRAIN, Stage.EVALUATE)
    metrics = metrics_of(job)
    assert list(metrics) == ["auroc", "margin"]
    slices = slices_of(job)
    assert slices["right"] == {}, "undefined where all answers are desirable"
    part = {
        kind: np.mean([row["rewards"]["completion"] for row in rows_of(job, "any") if row["label"] == kind])
        for kind in ("desirable", "undesirable")
    }
    assert slices["any"]["margin"] == pytest.approx(part["desirable"] - part["undesirable"])
    rewards: dict[str, list[float]] = {"desirable": [], "undesirable": []}
    for row in job.predictions:
        rewards[row["label"]].append(row["rewards"]["completion"])
    good, bad = (np.array(rewards[kind]) for kind in ("desirable", "undesirable"))
    area = np.mean(good[:, None] > bad[None, :])
    assert metrics["auroc"]["tuned"] == pytest.approx(area, abs=1e-3)
    assert metrics["auroc"]["change"] == pytest.approx(area - 0.5, abs=1e-3)
    assert metrics["auroc"]["measuredAgainst"] == "BaseModel"
    assert metrics["margin"]["tuned"] == pytest.approx(good.mean() - bad.mean())
    assert "undesirable · " in (job.revision / "evaluated" / "report.html").read_text()


def test_prepared_rows_have_one_prompt_for_both_answers(tuned: TinyJob) -> None:
    table = pa.ipc.open_file(str(tuned.revision / "prepared" / "train.arrow")).read_all()
    tokenizer = AutoTokenizer.from_pretrained(tuned.artifact)
    end = tokenizer.eos_token_id
    for row in table.to_pylist():
        assert tokenizer.decode(row["chosen_ids"][:-1]).strip() == row["chosen"]
        assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == end
        assert tokenizer.decode(row["prompt_ids"]).split() == ["<user>", *row["prompt"].split(), "<bot>"]
    report = json.loads((tuned.revision / "prepared" / "data.json").read_text())
    assert report["rows"] == "pairs of answers"
    assert report["end_tokens"] == [end]
