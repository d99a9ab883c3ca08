"""Which tasks of lm-eval the prepare stage accepts, with the library itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from harness_fixtures import CHOICE, GROUPS, REFUSED, WRITE, write_task, write_tasks

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.harness import library
from finetune_trainer.harness.check import check_harness
from finetune_trainer.harness.tasks import members_of

pytestmark = pytest.mark.usefixtures("harness_library")


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


@pytest.mark.parametrize("name", REFUSED)
def test_task_is_refused(name: str, tmp_path: Path) -> None:
    change, reason, sentence = REFUSED[name]
    failure = changed(tmp_path, **change)
    assert sentence in failure.message
    assert failure.reason is reason


@pytest.mark.parametrize("right", ["{{7 if label == 0 else label}}", "{{answer}}s", "{{-1 - label}}"])
def test_right_choices_are_among_the_choices(right: str, tmp_path: Path) -> None:
    failure = changed(tmp_path, doc_to_target=right)
    assert failure.reason is Reason.BAD_DATA
    assert re.match(
        r"Example \d+ of the lm-eval task choice has the right choice .*, which is neither", failure.message
    )
    assert "an index from 0 to 2 nor one of its choices: correct doc_to_target" in failure.message


def test_a_right_choice_that_the_first_example_lacks(tmp_path: Path) -> None:
    failure = changed(tmp_path, doc_to_target="{{label + 1}}")
    assert failure.message == (
        "The first example of the lm-eval task choice lacks an item that the task names (list index out of range): if "
        "it is the right choice, indices in doc_to_target count from 0"
    )


def test_the_right_choice_may_be_a_text(tmp_path: Path) -> None:
    uri = write_tasks(tmp_path / "tasks", choice=CHOICE | {"doc_to_target": "{{answer}}"})
    check_harness(spec_of(uri, ["choice"]), ModelFamily.CAUSAL, tmp_path / "scratch")


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


def test_files_that_no_named_task_needs_may_be_unusable(tmp_path: Path) -> None:
    uri = write_tasks(tmp_path / "tasks", other=WRITE)
    (tmp_path / "tasks/utils.py").write_text("raise SystemExit(1)\n")
    (tmp_path / "tasks/bad.yaml").write_text("task: arc_easy\ndoc_to_text: !function utils.text\n")
    (tmp_path / "tasks/odd.yaml").write_text("task: [\n")
    check_harness(spec_of(uri, ["choice"]), ModelFamily.CAUSAL, tmp_path / "scratch")
    # A task of lm-eval does not replace the one that was meant.
    assert "bad.yaml of" in refused(tmp_path, ["arc_easy"]).message
    assert "odd.yaml of" in refused(tmp_path, ["odd"]).message
    assert "both define the task write" in refused(tmp_path, ["write"]).message
    write_task(tmp_path / "tasks/choice.yaml", CHOICE | {"include": "bad.yaml"})
    assert "line 2: !function is Python code" in refused(tmp_path, ["choice"]).message


def test_name_that_nothing_has_is_reported_beside_an_unusable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.use_library()
    from lm_eval.tasks import TaskManager

    # To read all task files of lm-eval takes ten seconds.
    monkeypatch.setattr(TaskManager, "__init__", lambda self: setattr(self, "_index", {}))
    write_tasks(tmp_path / "tasks")
    (tmp_path / "tasks/bad.yaml").write_text("task: bad\ndoc_to_text: !function utils.text\n")
    failure = refused(tmp_path, ["choise"])
    assert failure.reason is Reason.NOT_FOUND
    assert "names the task choise, which neither" in failure.message
    assert "did you mean choice?; not usable: bad.yaml of" in failure.message


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


def test_a_group_is_refused_with_tasks_and_not_with_groups_of_it(tmp_path: Path) -> None:
    library.use_library()
    from lm_eval.tasks._index import TaskIndex

    for name, content in GROUPS.items():
        write_task(tmp_path / f"{name}.yaml", content)
    index = TaskIndex.build([tmp_path])
    assert members_of("all", index) == ["biology", "physics", "maths", "poems"]
    assert members_of("science_tasks", index) == ["biology", "physics"]


def test_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINETUNE_HARNESS")
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda _: None)
    message = refused(tmp_path, ["choice"]).message
    assert "--build-arg HARNESS=1" in message
