"""Loads tasks of lm-eval, and finds out what they measure without a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import HarnessMetric
from finetune_api.tables.harness import METRIC
from finetune_trainer.harness.failures import explained
from finetune_trainer.harness.files import TaskFiles

FEWSHOT_SEED = 1234
"""Of the few-shot examples, as lm-eval's own default."""
_NO_FILTER = "none"
_ANSWERS: dict[str, Any] = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0, "generate_until": ""}
"""What a model answers, by the type of the request."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measure:
    """How the values of the examples become a metric."""

    aggregate: Callable[[Sequence[Any]], float] = field(repr=False)
    higher_is_better: bool


@dataclass(frozen=True)
class HarnessTask:
    """A task that is ready to run."""

    name: str
    task: Any = field(repr=False)
    """The Task of lm-eval."""
    source: str
    """``lm-eval``, or the task file."""
    measures: Mapping[HarnessMetric, Measure]
    requests: int
    """The number of requests of its first example."""

    @property
    def examples(self) -> int:
        return len(self.task.eval_docs)

    @property
    def fewshot(self) -> int:
        return int(self.task.get_config("num_fewshot") or 0)


def metric_name(task: str, metric: str, answers: str) -> str:
    """The name of a metric of a task whose answers were read by the filter ``answers``."""
    return f"{task}/{metric}" + ("" if answers == _NO_FILTER else f",{answers}")


def load_tasks(names: Sequence[str], files: TaskFiles | None, scratch: Path) -> list[HarnessTask]:
    """Load tasks, with their data.

    Args:
        names: Names of tasks in ``files`` or of lm-eval.
        files: Task files; None if there are none.
        scratch: Directory for copies of the data.

    Raises:
        StageFailure: NotFound (no such task or data set), Unavailable (the hub does not respond), BadConfiguration and
            BadData (the task does not work).
    """
    built_in = _built_in_files([name for name in names if not files or not files.defines(name)], files)
    loaded = []
    for name in names:
        config = None if name in built_in else _of(files).config(name, scratch)
        dataset = _declared(built_in[name], "dataset_path") if config is None else config["dataset_path"]
        with explained(name, dataset):
            task = _build(built_in[name]) if config is None else _configured(config)
            source = "lm-eval" if config is None else _of(files).tasks[name]
            measures = _measures(name, task, own=config is not None)
            requests = sum(request.repeats for request in task.instances)
            loaded.append(HarnessTask(name, task, source, measures, requests))
    return loaded


def _of(files: TaskFiles | None) -> TaskFiles:
    assert files is not None
    return files


def _configured(config: dict[str, Any]) -> Any:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.config.task import TaskConfig

    name = config["task"]
    if unknown := sorted(set(config) - set(TaskConfig.__dataclass_fields__)):
        known = get_close_matches(str(unknown[0]), list(TaskConfig.__dataclass_fields__), 1)
        raise _bad(f"The lm-eval task {name} has the field {unknown[0]}, which lm-eval does not know{_meant(known)}")
    return ConfigurableTask(config=config)


def _build(path: Path) -> Any:
    from lm_eval.tasks._factory import TaskFactory
    from lm_eval.tasks._index import TaskIndex

    return TaskFactory().build(TaskIndex.entry_from_path(path), registry={})


def _declared(path: Path, key: str) -> Any:
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(path, resolve_func=False).get(key)


def _built_in_files(names: Sequence[str], files: TaskFiles | None) -> dict[str, Path]:
    """The task files of lm-eval, by name.

    Raises:
        StageFailure: NotFound when there is none, BadConfiguration for the name of a group.
    """
    if not names:
        return {}
    from lm_eval import tasks

    wanted = re.compile(
        rb"^task:[ \t]*[\"']?(" + b"|".join(re.escape(name.encode()) for name in names) + rb")[\"']?\s*$", re.M
    )
    found: dict[str, Path] = {}
    for path in sorted(Path(tasks.__file__).parent.rglob("*.yaml"), key=Path.as_posix):
        if match := wanted.search(path.read_bytes()):
            found.setdefault(match[1].decode(), path)
    # To read all task files of lm-eval takes ten seconds.
    for name in names:
        if name not in found:
            found[name] = _indexed(name, files)
    return found


def _indexed(name: str, files: TaskFiles | None) -> Path:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Kind

    index = TaskManager().task_index
    entry = index.get(name)
    if entry is None:
        own = sorted(files.tasks) if files else []
        close = get_close_matches(name, [*own, *index], 3)
        lacking = f"neither {files.uri} nor lm-eval has" if files else "lm-eval does not have"
        raise StageFailure(
            Reason.NOT_FOUND,
            f"evaluation.harness names the task {name}, which {lacking}{_meant(close)}{_unusable(files)}",
        )
    if entry.kind in (Kind.GROUP, Kind.TAG):
        members = members_of(name, index)
        some = f", such as {', '.join(members[:3])}" if members else ""
        raise _bad(f"evaluation.harness names {name}, which is a group of tasks of lm-eval: name tasks of it{some}")
    path: Path = entry.yaml_path
    return path


def members_of(name: str, index: Mapping[str, Any]) -> list[str]:
    """The tasks of a group or tag of lm-eval, also those of the groups and tags in it, without groups and tags.

    Args:
        name: Name of the group or tag.
        index: The entries of lm-eval by name.
    """
    tasks: dict[str, None] = {}
    pending, seen = [name], set()
    while pending:
        current = pending.pop(0)
        entry = index.get(current)
        if entry is None or current in seen:
            continue
        seen.add(current)
        parts = sorted(entry.tags) if entry.kind.name == "TAG" else _parts((entry.cfg or {}).get("task"))
        if entry.kind.name in ("GROUP", "TAG"):
            pending = [*parts, *pending]
        else:
            tasks[current] = None
    return list(tasks)


def _parts(tasks: Any) -> list[str]:
    """The names in the list of a group, also those in groups that the list defines."""
    names = []
    for one in tasks if isinstance(tasks, list) else []:
        if isinstance(one, dict):
            inner = one.get("task", one.get("group"))
            names += _parts(inner) if isinstance(inner, list) else [str(inner)]
        else:
            names.append(str(one))
    return names


def _unusable(files: TaskFiles | None) -> str:
    """What is wrong with the first task file that cannot be used, because the task may be in it."""
    problems = [failure.message for failure in files.unusable.values()] if files else []
    return f"; not usable: {problems[0]}" if problems else ""


def _meant(close: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _measures(name: str, task: Any, own: bool) -> dict[HarnessMetric, Measure]:
    """The metrics of a task, from its first example and the answer of no model.

    Args:
        name: Name of the task.
        task: The Task of lm-eval.
        own: Whether the user has written it. In tasks of lm-eval, metrics without a direction are left out.
    """
    _check_kind(name, task)
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    _check_metrics(name, task)
    if own:
        _check_fewshot(name, task)
        _check_choices(name, task)
    found = {}
    directions, aggregations = task.higher_is_better(), task.aggregation()
    rehearsed = _rehearsed(name, task, own)
    absent = sorted(set(directions) - {metric for metric, _ in rehearsed})
    if own and absent:
        raise _bad(
            f"The lm-eval task {name} has the metric {absent[0]}, which lm-eval does not measure for output_type "
            f"{task.OUTPUT_TYPE}: remove it from metric_list"
        )
    for (metric, answers), value in rehearsed.items():
        full = metric_name(name, metric, answers)
        better, aggregate = directions.get(metric), aggregations.get(metric)
        if better is None or aggregate is None or not re.fullmatch(METRIC, full):
            if own:
                raise _bad(
                    f"The lm-eval task {name} does not say what {metric} means: set aggregation and higher_is_better "
                    "in its metric_list"
                )
            _log.warning("%s is left out, because lm-eval does not say which values are better", full)
            continue
        if value is not None:
            float(aggregate([value, value]))
        found[HarnessMetric(full)] = Measure(aggregate, bool(better))
    if not found:
        raise _bad(f"The lm-eval task {name} measures nothing that evaluation.harness can compare")
    return found


def _check_kind(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise _bad(
            f"The lm-eval task {name} runs answers of the model as programs, without a sandbox, which "
            "evaluation.harness does not do; choose another task"
        )
    if getattr(task, "MULTIMODAL", False):
        raise _bad(f"The lm-eval task {name} needs a model that reads images or sound; choose another task")
    if not len(task.eval_docs):
        raise StageFailure(Reason.BAD_DATA, f"The lm-eval task {name} has no examples")


def _check_metrics(name: str, task: Any) -> None:
    """lm-eval only logs that it does not know a metric."""
    from lm_eval.api.registry import metric_registry

    known = [metric for metric in metric_registry if metric != "bypass"]
    functions = getattr(task, "_metric_fn_list", {})
    if task.get_config("process_results") is not None:
        return
    for metric, function in functions.items():
        if function is None or metric == "bypass":
            raise _bad(
                f"The lm-eval task {name} has the metric {metric}, which lm-eval does not contain"
                f"{_meant(get_close_matches(metric, known, 2))}; its metrics are {', '.join(sorted(known))}"
            )


def _check_fewshot(name: str, task: Any) -> None:
    wanted, known = int(task.get_config("num_fewshot")), task.fewshot_docs() or ()
    if wanted > len(known):
        raise _bad(
            f"The lm-eval task {name} shows {wanted} examples in each prompt (num_fewshot), but its split for them has "
            f"{len(known)}: lower num_fewshot, or add examples"
        )


def _check_choices(name: str, task: Any) -> None:
    """lm-eval only logs that an example has none of its choices as the right one, and counts it as wrong."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.get_config("process_results") is not None:
        return
    for number, document in enumerate(task.eval_docs, 1):
        choices = task.doc_to_choice(document)
        right = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
        for one in right if isinstance(right, list) else [right]:
            if one in choices if isinstance(one, str) else one in range(len(choices)):
                continue
            raise StageFailure(
                Reason.BAD_DATA,
                f"Example {number:,} of the lm-eval task {name} has the right choice {one!r}, which is neither an "
                f"index from 0 to {len(choices) - 1} nor one of its choices: correct doc_to_target, or the data",
            )


def _rehearsed(name: str, task: Any, own: bool) -> dict[tuple[str, str], Any]:
    """The value of each metric and filter for the first example; None if only an answer of a model gives one."""
    task.build_all_requests(limit=1, rank=0, world_size=1)
    requests = task.instances
    for request in requests:
        request.resps = [_ANSWERS[request.request_type]] * request.repeats
    document = requests[0].doc
    found: dict[tuple[str, str], Any] = {}
    try:
        task.apply_filters()
        for answers in requests[0].filtered_resps:
            results = task.process_results(document, [request.filtered_resps[answers] for request in requests])
            found |= {(metric, answers): value for metric, value in results.items()}
    except Exception:
        if own:
            raise
        # Python code of lm-eval may fail for an answer that no model gives.
        _log.info("%s needs the answer of a model to tell its metrics", name, exc_info=True)
        filters = [one.name for one in task._filters]
        found = {(metric, answers): None for metric in task.higher_is_better() for answers in filters}
    return found


def _bad(message: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, message)
