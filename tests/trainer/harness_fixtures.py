"""Tasks of lm-eval with local data, and jobs that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.trainer.local_session import ROOT
from tests.trainer.tiny_models import LABELS, make_texts

LIBRARY = str(ROOT / ".venv" / "harness")
"""Where `make install` puts lm-eval, apart from everything else."""

COMMON: dict[str, Any] = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"train": "data/train.jsonl", "test": "data/test.jsonl"}},
    "fewshot_split": "train",
    "test_split": "test",
    "doc_to_text": "what is it {{text}}",
}
CHOICE: dict[str, Any] = {
    "task": "choice",
    "include": "common.yaml",
    "output_type": "multiple_choice",
    "num_fewshot": 1,
    "doc_to_target": "label",
    "doc_to_choice": "choices",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
    "metadata": {"version": 2.0},
}
WRITE: dict[str, Any] = {
    "task": "write",
    "include": "common.yaml",
    "output_type": "generate_until",
    "doc_to_target": "it is {{answer}}",
    "generation_kwargs": {"until": ["<end>"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True},
        {"metric": "chrf", "aggregation": "chrf", "higher_is_better": True},
    ],
}
ROLLING: dict[str, Any] = {
    "task": "rolling",
    "include": "common.yaml",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "text",
    "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
}
TASKS = {"choice": CHOICE, "write": WRITE, "rolling": ROLLING}


def write_tasks(directory: Path, examples: int = 24, **changed: Any) -> str:
    """Write the tasks with their data; returns the address of the directory."""
    (directory / "data").mkdir(parents=True, exist_ok=True)
    for split, seed in (("train", 7), ("test", 8)):
        rows = [
            {"text": text, "choices": list(LABELS), "label": label, "answer": LABELS[label]}
            for text, label in make_texts(examples, seed)
        ]
        (directory / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_task(directory / "common.yaml", COMMON)
    for name, task in (TASKS | changed).items():
        write_task(directory / f"{name}.yaml", task)
    return directory.as_uri()


def write_task(path: Path, task: dict[str, Any]) -> None:
    """Write a task file."""
    path.write_text(yaml.safe_dump(task))
