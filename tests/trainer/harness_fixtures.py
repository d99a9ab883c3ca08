"""Tasks of lm-eval with local data, and jobs that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from finetune_api.failures import Reason
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
GROUPS: dict[str, dict[str, Any]] = {
    "all": {"group": "all", "task": ["science", "arts", "all"]},
    "science": {"group": "science", "task": ["science_tasks", {"group": "inner", "task": ["maths"]}]},
    "arts": {"group": "arts", "task": [{"task": "poems", "num_fewshot": 1}, "lost"]},
    **{name: {"task": name, "tag": "science_tasks"} for name in ("physics", "biology")},
    **{name: {"task": name} for name in ("maths", "poems")},
}
"""Task files with groups in groups, a tag, and a group that contains itself."""
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


def data_set(**settings: Any) -> dict[str, Any]:
    return {"dataset_kwargs": settings}


METRIC = {"aggregation": "mean", "higher_is_better": True}
REFUSED: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "unknown field": ({"doc_to_txt": "x"}, Reason.BAD_CONFIGURATION, "did you mean doc_to_text?"),
    "unknown metric": (
        {"metric_list": [{"metric": "accuracy"} | METRIC]},
        Reason.BAD_CONFIGURATION,
        "has the metric accuracy, which lm-eval does not contain",
    ),
    "metric of other answers": (
        {"metric_list": [{"metric": "bleu"} | METRIC]},
        Reason.BAD_CONFIGURATION,
        "the metric bleu, which lm-eval does not measure for output_type multiple_choice",
    ),
    "metric that says nothing": (
        {"metric_list": [{"metric": "bypass"} | METRIC]},
        Reason.BAD_CONFIGURATION,
        "has the metric bypass",
    ),
    "missing column": ({"doc_to_text": "{{nothing}}"}, Reason.BAD_DATA, "column that its data lacks: 'nothing'"),
    "missing split": ({"test_split": "tests"}, Reason.BAD_CONFIGURATION, "names 'tests', which is no split"),
    "python in a template": (
        {"doc_to_text": "{{ ''.__class__.__mro__ }}"},
        Reason.BAD_CONFIGURATION,
        "accesses Python objects",
    ),
    "broken template": ({"doc_to_text": "{{ text"}, Reason.BAD_CONFIGURATION, "A template of the lm-eval task choice"),
    "class": ({"class": "Task"}, Reason.BAD_CONFIGURATION, "class is Python code"),
    "programs": ({"unsafe_code": True}, Reason.BAD_CONFIGURATION, "unsafe_code runs answers"),
    "prompt library": ({"use_prompt": "promptsource:x"}, Reason.BAD_CONFIGURATION, "use_prompt takes prompts"),
    "remote code": (data_set(trust_remote_code=True), Reason.BAD_CONFIGURATION, "trust_remote_code would run code"),
    "pickles": ({"dataset_path": "pandas"}, Reason.BAD_CONFIGURATION, "dataset_path 'pandas' is neither"),
    "directory": ({"dataset_path": "./data"}, Reason.BAD_CONFIGURATION, "dataset_path './data' is neither"),
    "no data": ({"dataset_kwargs": {}}, Reason.BAD_CONFIGURATION, "dataset_kwargs has no data_files"),
    "files outside": (
        data_set(data_files={"test": "../../../etc/passwd"}),
        Reason.BAD_CONFIGURATION,
        "names ../../../etc/passwd, but there is no such file",
    ),
    "web address": (data_set(data_files={"test": "https://host/x.json"}), Reason.BAD_CONFIGURATION, "no such file"),
    "file outside included": ({"include": "/etc/hosts"}, Reason.BAD_CONFIGURATION, "includes /etc/hosts, but"),
    "inclusion of itself": ({"include": "choice.yaml"}, Reason.BAD_CONFIGURATION, "choice.yaml of"),
    "more few-shot examples than there are": (
        {"num_fewshot": 99},
        Reason.BAD_CONFIGURATION,
        "shows 99 examples in each prompt",
    ),
    "data set of the hub": (
        {"dataset_path": "owner/name", "dataset_kwargs": None, "include": None, "test_split": "test"},
        Reason.NOT_FOUND,
        "The data set owner/name of the lm-eval task choice is not in the cache",
    ),
}
