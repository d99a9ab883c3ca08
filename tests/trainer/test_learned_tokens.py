"""InstructionTuning with task.loss All: training learns every token, and the evaluation measures the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.failures import Reason
from finetune_api.stage import Stage
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.splits import open_split
from finetune_trainer.train.causal import CausalCollator, CausalDataset
from tests.trainer.prepare_fixtures import (
    MARKED_TEMPLATE,
    PLAIN_TEMPLATE,
    a_chat_model,
    a_context,
    json_lines,
    prepared,
    refused,
    stored,
)
from tests.trainer.stages import TinyJob, instruction_job

ALL = {"type": "InstructionTuning", "loss": "All"}
WITHOUT_END = PLAIN_TEMPLATE.replace("<|im_end|>", "")
NOTE = "raining learns all tokens of a conversation, and the validation loss is the mean over all of them"


def a_chat(number: int, **of_first_answer: Any) -> dict[str, Any]:
    """A row with a system message, two questions and their answers."""
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"what is {number} + 1?"},
            {"role": "assistant", "content": f"{number + 1}", **of_first_answer},
            {"role": "user", "content": "and 1 more?"},
            {"role": "assistant", "content": f"{number + 2}"},
        ]
    }


def test_training_and_validation_learn_every_token_and_the_test_split_has_the_answers(tmp_path: Path) -> None:
    uri = json_lines(tmp_path / "a.jsonl", map(a_chat, range(40)))
    model = a_chat_model(tmp_path / "m", MARKED_TEMPLATE).as_uri()
    (tmp_path / "answers").mkdir()
    answers = a_context(tmp_path / "answers", model, {"type": "InstructionTuning"}, {"train": {"uri": uri}})
    _, before = prepared(answers)
    (tmp_path / "all").mkdir()
    context = a_context(tmp_path / "all", model, ALL, {"train": {"uri": uri}})
    result, report = prepared(context)
    assert [note for note in result.notes if NOTE in note]
    assert report.end_tokens == before.end_tokens
    for split in ("train", "validation", "test"):
        rows, reference = (open_split(stored(one), split).to_pylist() for one in (context, answers))
        for row, other in zip(rows, reference, strict=True):
            assert row == other | {"labels": other["labels" if split == "test" else "input_ids"]}
    row = CausalDataset(open_split(stored(context), "train"), report.max_sequence_length).row(0)
    ids, labels, starts = row["input_ids"], row["labels"], row["position_ids"] == 0
    assert starts.sum() > 1, "several conversations share the row"
    assert labels.tolist() == np.where(starts, IGNORED_LABEL, ids).tolist()


def test_an_answer_ends_as_before_where_the_template_writes_no_end(tmp_path: Path) -> None:
    uri = json_lines(tmp_path / "a.jsonl", map(a_chat, range(20)))
    model = a_chat_model(tmp_path / "m", WITHOUT_END).as_uri()
    context = a_context(tmp_path, model, ALL, {"train": {"uri": uri}})
    _, report = prepared(context)
    tokenizer = AutoTokenizer.from_pretrained(str(stored(context) / "tokenizer"))
    assert report.end_tokens[0] == tokenizer.eos_token_id
    for row in open_split(stored(context), "train").to_pylist():
        changed = [label for token, label in zip(row["input_ids"], row["labels"], strict=True) if token != label]
        assert IGNORED_LABEL not in row["labels"]
        assert changed == [tokenizer.eos_token_id], "what follows the first answer"
        assert row["input_ids"][-1] == tokenizer.eos_token_id, "the end of the last answer, which is added"


def test_a_weight_of_zero_contradicts_it(tmp_path: Path) -> None:
    rows = [a_chat(number, **({"weight": 0} if number == 2 else {})) for number in range(20)]
    uri = json_lines(tmp_path / "a.jsonl", rows)
    model = a_chat_model(tmp_path / "m", PLAIN_TEMPLATE).as_uri()
    failure = refused(a_context(tmp_path, model, ALL, {"train": {"uri": uri}}))
    assert failure.reason is Reason.BAD_DATA
    assert failure.message.startswith(
        f"{uri}:3: message 3 has the weight 0, but task.loss All learns every message; remove the weight, or set "
        "task.loss to Assistant"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """One step on all training rows, and the evaluation."""
    job = instruction_job(tmp_path_factory.mktemp("all"), examples=60).changed(
        task={"loss": "All"},
        training={"maxSteps": 1, "batchSize": 64, "packing": False},
        dataset={"test": {"fraction": 0.1, "minimumExamples": 1}},
        evaluation={"metrics": ["loss", "token_accuracy"]},
        distributed={"zero": {"stage": 0}},
    )
    for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE):
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    return job


def mean_loss(job: TinyJob, split: str) -> float:
    """Mean loss of the base model over all tokens of a split with labels."""
    data = CausalDataset(open_split(job.revision / "prepared", split), None)
    batch = CausalCollator(0)([data[index] for index in range(len(data))])
    model = AutoModelForCausalLM.from_pretrained(str(job.root / "base"))
    with torch.no_grad():
        return float(model(**batch).loss)


def test_training_measures_all_tokens_and_the_evaluation_the_answers(trained: TinyJob) -> None:
    assert trained.losses()[0] == pytest.approx(mean_loss(trained, "train"), rel=1e-5)
    scores = {score["name"]: score for score in trained.evaluation["metrics"]}
    assert scores["loss"]["baseline"] == pytest.approx(mean_loss(trained, "test"), rel=1e-5)


def test_card_and_report_say_what_was_learned(trained: TinyJob) -> None:
    outcome = trained.run(Stage.PUBLISH)
    assert outcome.code == 0, outcome.log
    for page in ("README.md", "report.html"):
        assert NOTE in (trained.artifact / page).read_text()
