"""What prepare refuses about the tasks of lm-eval, before a GPU is held."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_fixtures import CHOICE, LIBRARY, WRITE, write_task, write_tasks

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.harness import library
from finetune_trainer.harness.check import check_harness


@pytest.fixture(autouse=True, scope="module")
def _library() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HARNESS", LIBRARY)
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield


def spec_of(uri: str | None, tasks: list[str], gates: list[dict[str, Any]] | None = None) -> FineTuneJobSpec:
    evaluation = {"harness": tasks, "gates": gates or []} | ({"harnessPath": {"uri": uri}} if uri else {})
    return FineTuneJobSpec.model_validate_json(
        json.dumps(
            {
                "model": {"uri": "hf://owner/name"},
                "task": {"type": "LanguageModeling"},
                "dataset": {"train": {"uri": "s3://bucket/train.jsonl"}},
                "evaluation": evaluation,
                "output": {"uri": "s3://adapters"},
            }
        )
    )


def refused(
    root: Path, tasks: list[str], gates: list[dict[str, Any]] | None = None, family: ModelFamily = ModelFamily.CAUSAL
) -> StageFailure:
    uri = (root / "tasks").as_uri() if (root / "tasks").exists() else None
    with pytest.raises(StageFailure) as caught:
        check_harness(spec_of(uri, tasks, gates), family, root / "scratch")
    return caught.value


def changed(root: Path, **task: Any) -> StageFailure:
    """The refusal of a task that differs from `CHOICE`; None removes a field."""
    write_tasks(root / "tasks")
    fields = {key: value for key, value in (CHOICE | task).items() if value is not None}
    write_task(root / "tasks/choice.yaml", fields)
    return refused(root, ["choice"])


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


@pytest.mark.parametrize("name", REFUSED)
def test_task_is_refused(name: str, tmp_path: Path) -> None:
    change, reason, sentence = REFUSED[name]
    failure = changed(tmp_path, **change)
    assert sentence in failure.message
    assert failure.reason is reason


def test_tasks_with_their_gates_are_accepted(tmp_path: Path) -> None:
    uri = write_tasks(tmp_path / "tasks")
    gates = [{"metric": "write/chrf", "minimum": 20.0}]
    check_harness(spec_of(uri, ["choice", "write", "rolling"], gates), ModelFamily.SEQ2SEQ, tmp_path / "scratch")


def test_gate_on_a_metric_that_the_task_lacks(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    message = refused(tmp_path, ["choice"], [{"metric": "choice/acc_nrm", "minimum": 0.5}]).message
    assert message == (
        "evaluation.gates names choice/acc_nrm, but choice measures choice/acc, choice/acc_norm; did you mean "
        "choice/acc_norm?"
    )


def test_metric_of_a_filter_has_its_name(tmp_path: Path) -> None:
    steps = [{"function": "regex", "regex_pattern": "(\\w+)"}, {"function": "take_first"}]
    uri = write_tasks(tmp_path / "tasks", write=WRITE | {"filter_list": [{"name": "first-word", "filter": steps}]})
    gates = [{"metric": "write/exact_match,first-word", "minimum": 0.5}]
    check_harness(spec_of(uri, ["write"], gates), ModelFamily.CAUSAL, tmp_path / "scratch")
    message = refused(tmp_path, ["write"], [{"metric": "write/exact_match", "minimum": 0.5}]).message
    assert "write measures write/exact_match,first-word, write/chrf,first-word" in message


def test_encoder(tmp_path: Path) -> None:
    failure = refused(tmp_path, ["choice"], family=ModelFamily.ENCODER)
    assert failure.message.startswith("evaluation.harness measures models that predict text")


def test_python_in_files(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    (tmp_path / "tasks/choice.yaml").write_text("task: choice\ndoc_to_text: !function utils.text\n")
    assert "choice.yaml of" in (message := refused(tmp_path, ["choice"]).message)
    assert "line 2: !function is Python code" in message
    (tmp_path / "tasks/utils.py").write_text("")
    assert "utils.py of" in refused(tmp_path, ["choice"]).message


@pytest.mark.parametrize("text", ["task: [", "- a", "task: 'a b'", "\t"])
def test_broken_task_files(tmp_path: Path, text: str) -> None:
    write_tasks(tmp_path / "tasks")
    (tmp_path / "tasks/choice.yaml").write_text(text)
    failure = refused(tmp_path, ["choice"])
    assert failure.reason is Reason.BAD_CONFIGURATION
    assert "choice.yaml of file://" in failure.message


def test_two_tasks_of_a_name(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", other=CHOICE)
    assert "choice.yaml of file" in refused(tmp_path, ["choice"]).message.replace("other.yaml and ", "")


def test_broken_and_empty_data(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    (tmp_path / "tasks/data/test.jsonl").write_text('{"a": 1}\n{"a"')
    failure = refused(tmp_path, ["choice"])
    assert (failure.reason, failure.message[:45]) == (Reason.BAD_DATA, "The data of the lm-eval task choice cannot be")
    (tmp_path / "tasks/data/test.jsonl").write_text("")
    assert "lm-eval task choice" in refused(tmp_path, ["choice"]).message


def test_no_task_files(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    assert refused(tmp_path, ["choice"]).reason is Reason.NOT_FOUND


def test_names_of_lm_eval(tmp_path: Path) -> None:
    failure = refused(tmp_path, ["arc_easy"])
    assert failure.reason is Reason.NOT_FOUND
    assert "The data set allenai/ai2_arc of the lm-eval task arc_easy is not in the cache" in failure.message


def test_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINETUNE_HARNESS")
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda _: None)
    message = refused(tmp_path, ["choice"]).message
    assert "--build-arg HARNESS=1" in message
