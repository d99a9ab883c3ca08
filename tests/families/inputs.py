"""The data and the job with which a model type is tried."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.tasks import ModelFamily, TaskType
from finetune_trainer.prepared import IGNORED_LABEL, DataReport, ModelHandling, ModelIdentity
from tests.families.tiny import LABELS, PAD, VOCABULARY

TASKS = {
    "CAUSAL_LM": TaskType.INSTRUCTION_TUNING,
    "SEQ_CLS": TaskType.TEXT_CLASSIFICATION,
    "SEQ_2_SEQ_LM": TaskType.SUMMARIZATION,
    "QUESTION_ANS": TaskType.QUESTION_ANSWERING,
}
FAMILIES = {
    "CAUSAL_LM": ModelFamily.CAUSAL,
    "SEQ_CLS": ModelFamily.ENCODER,
    "SEQ_2_SEQ_LM": ModelFamily.SEQ2SEQ,
    "QUESTION_ANS": ModelFamily.ENCODER,
}
AUTO_CLASSES = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
}

ROW_LENGTH = 64
VIRTUAL = {"PromptTuning": "promptTuning", "PrefixTuning": "prefixTuning", "PTuning": "pTuning"}
"""The settings of each method with virtual tokens."""
VIRTUAL_TOKENS = 5


def examples(task: str) -> pa.Table:
    """Random rows of different length, with the columns of prepared data.

    Args:
        task: PEFT task type, such as CAUSAL_LM.
    """
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, VOCABULARY, length).tolist() for length in (40, 9, 23, 17, 31, 5)]
    ids = pa.list_(pa.int32())
    if task == "QUESTION_ANS":
        return _questions(rows)
    if task == "SEQ_2_SEQ_LM":
        targets = [[*generator.integers(3, VOCABULARY, length).tolist(), 2] for length in (7, 12, 3, 9, 1, 15)]
        return pa.table({"input_ids": pa.array([[*row, 2] for row in rows], ids), "labels": pa.array(targets, ids)})
    if task == "SEQ_CLS":
        # T5 and BART classify at the end token, which every text needs exactly once.
        rows = [[*row[:-1], 2] for row in rows]
        labels = pa.array([index % len(LABELS) for index in range(len(rows))], pa.int32())
        return pa.table({"input_ids": pa.array(rows, ids), "label": labels})
    targets = [[IGNORED_LABEL] * (len(row) // 2) + row[len(row) // 2 :] for row in rows]
    return pa.table({"input_ids": pa.array(rows, ids), "labels": pa.array(targets, ids)})


def _questions(rows: list[list[int]]) -> pa.Table:
    """Each row as one window of RoBERTa's form: a question of one token, and a context with an answer of one token."""
    rows = [[1, row[0], 2, 2, *row[1:], 2] for row in rows]  # Longformer needs three separators.
    values = {
        "input_ids": rows,
        "token_type_ids": [[0, 0, 0, 0, *(1 for _ in row[4:])] for row in rows],
        "window_lengths": [[len(row)] for row in rows],
        "null_positions": [[0] for _ in rows],
        "context_starts": [[4] for _ in rows],
        "context_lengths": [[len(row) - 5] for row in rows],
        "context_firsts": [[0] for _ in rows],
        "starts": [[len(row) // 2 + 1] for row in rows],
        "ends": [[len(row) // 2 + 1] for row in rows],
    }
    return pa.table({name: pa.array(lists, pa.list_(pa.int32())) for name, lists in values.items()})


def job_spec(task: TaskType, method: str) -> FineTuneJobSpec:
    """The shortest job for a task and a method."""
    settings = {VIRTUAL[method]: {"virtualTokens": VIRTUAL_TOKENS}} if method in VIRTUAL else {}
    return FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "file:///base"},
            "task": {"type": task},
            "dataset": {"train": {"uri": "file:///train.jsonl"}},
            "method": {"type": method, **settings},
            "distributed": {"zero": {"stage": 0}},
            "output": {"uri": "file:///output"},
        },
        strict=False,
    )


def data_report(peft_task: str, handling: ModelHandling) -> DataReport:
    """A report about prepared data, with the labels of the task."""
    task = TASKS[peft_task]
    return DataReport(
        task=task,
        family=FAMILIES[peft_task],
        labels=LABELS if task is TaskType.TEXT_CLASSIFICATION else (),
        max_sequence_length=ROW_LENGTH,
        padding=PAD,
        splits={},
        duplicates=0,
        inputs_digest="sha256:" + "0" * 64,
        contradicting=0,
        leaked=0,
        invalid=0,
        sources=(),
        model=ModelIdentity(uri="file:///base", revision="1", architecture="Tiny", parameters=1, max_positions=None),
        handling=handling,
    )


def loss_sum(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The cross entropy of the next tokens with a label, summed."""
    flat = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    targets = labels[:, 1:].reshape(-1)
    return float(torch.nn.functional.cross_entropy(flat, targets, reduction="sum", ignore_index=IGNORED_LABEL))


def learned_tokens(labels: torch.Tensor) -> int:
    """The number of tokens in that sum."""
    return int((labels[:, 1:] != IGNORED_LABEL).sum())
