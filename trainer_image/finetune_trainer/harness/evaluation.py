"""Runs the tasks of lm-eval on the base model and the tuned model."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import evaluator
from lm_eval.api.metrics import mean
from transformers import GenerationConfig

from finetune_api.evaluation import MetricResult
from finetune_api.failures import Reason, StageFailure
from finetune_trainer.evaluate.comparison import EvaluationInputs, ExampleCounter
from finetune_trainer.evaluate.decoding import decoding
from finetune_trainer.evaluate.generation import LIMITS
from finetune_trainer.harness.failures import explained
from finetune_trainer.harness.files import TaskFiles
from finetune_trainer.harness.library import use_library
from finetune_trainer.harness.model import Model, alive
from finetune_trainer.harness.results import Values, paired_result, resamples_of
from finetune_trainer.harness.tasks import FEWSHOT_SEED, HarnessTask, load_tasks, metric_name
from finetune_trainer.modelling.batching import BatchLimits
from finetune_trainer.modelling.tokenizer import fix_date, load_auto_tokenizer, load_prepared_tokenizer
from finetune_trainer.patches.lm_eval import without_bars
from finetune_trainer.tasks.base import TaskForm

_SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": FEWSHOT_SEED}
"""The defaults of lm-eval."""
_REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class HarnessResult:
    """The metrics of all tasks."""

    metrics: tuple[MetricResult, ...]
    details: dict[str, Any]
    """Versions and settings, for evaluation.json."""
    rows: list[dict[str, Any]]
    """The values of both models for each example."""


@dataclass(frozen=True)
class _Outcome:
    """What one model achieved in one task."""

    values: dict[str, Values]
    """By the name of the metric."""
    answers: dict[int, list[str]]
    """Generated answers by the number of the example; empty for a task that generates none."""


def evaluate_tasks(inputs: EvaluationInputs, form: TaskForm, files: TaskFiles | None, scratch: Path) -> HarnessResult:
    """Run the tasks of ``evaluation.harness`` on both models, with the same examples and seeds.

    Args:
        inputs: Inputs of the evaluation.
        form: The task of the job.
        files: The task files of ``evaluation.harnessPath``.
        scratch: Directory for copies of the data.

    Raises:
        StageFailure: As `check_harness`, and OutOfMemory and Diverged.
    """
    installed = use_library()
    without_bars()
    inputs.reporter.progress("loading the tasks of lm-eval")
    tasks = load_tasks(inputs.spec.evaluation.harness, files, scratch)
    runner = _Runner.of(inputs, form)
    outcomes: dict[str, dict[str, _Outcome]] = {}
    for model_name, model in inputs.models():
        outcomes[model_name] = {task.name: runner.run(task, model_name, model) for task in tasks}
        del model  # Frees its memory for the next model.
    metrics, rows = [], []
    for task in tasks:
        baseline, tuned = (outcomes[name][task.name] for name in ("baseline", "tuned"))
        counter = ExampleCounter(inputs.reporter, f"comparing {task.name} of lm-eval", 0, "resamples")
        with explained(task.name):
            metrics += _results(task, baseline, tuned, inputs.spec.training.seed, _Throttled(counter))
        rows += _rows(task, baseline, tuned)
    details = {
        "version": installed,
        "chatTemplate": runner.chat,
        "seeds": _SEEDS,
        **({"files": {"uri": files.uri, "digest": files.digest}} if files else {}),
        "tasks": {task.name: _details(task, outcomes["tuned"][task.name]) for task in tasks},
    }
    return HarnessResult(tuple(metrics), details, rows)


@dataclass(frozen=True)
class _Runner:
    """Runs tasks on models with the settings of a job."""

    inputs: EvaluationInputs
    tokenizer: Any
    backend: str
    chat: bool
    """Whether prompts are messages in the chat template."""

    @classmethod
    def of(cls, inputs: EvaluationInputs, form: TaskForm) -> _Runner:
        tokenizer: Any = load_prepared_tokenizer(inputs.prepared)
        # Prepare gives a template to a tokenizer without one; the base model has never seen that.
        known = form.uses_chat_template and load_auto_tokenizer(inputs.base, inputs.spec.model.uri).chat_template
        chat = bool(known)
        if chat:
            fix_date(tokenizer, inputs.data.template_date)
        return cls(inputs, tokenizer, "seq2seq" if form.adapter_task == "SEQ_2_SEQ_LM" else "causal", chat)

    def run(self, task: HarnessTask, name: str, model: Any) -> _Outcome:
        """Run a task on the model ``name``; after an out-of-memory error again, with smaller batches."""
        inputs = self.inputs
        limits = LIMITS[inputs.hardware.device.type].unless_alone(inputs.data.handling.batched_generation)
        activity = f"{task.name} of lm-eval ({name})"
        while True:
            counter = _Throttled(ExampleCounter(inputs.reporter, activity, task.examples * task.requests, "requests"))
            try:
                with explained(task.name), torch.inference_mode(), inputs.hardware.autocast():
                    return _outcome(task, self._results(task, model, limits, counter))
            except torch.OutOfMemoryError:
                if limits.examples == 1:
                    raise StageFailure(
                        Reason.OUT_OF_MEMORY,
                        f"The model and one example of the lm-eval task {task.name} do not fit into the GPU's memory; "
                        "use a larger GPU, or remove the task from evaluation.harness",
                    ) from None
                limits = replace(limits, examples=limits.examples // 2)
                torch.cuda.empty_cache()

    def _results(self, task: HarnessTask, model: Any, limits: BatchLimits, counter: _Throttled) -> dict[str, Any]:
        """The results of lm-eval."""
        data = self.inputs.data
        # What the model was saved with has no effect, other than what the task needs, as in the evaluation of the job.
        configuration: Any = GenerationConfig
        config = configuration(eos_token_id=list(data.end_tokens) or None, pad_token_id=data.padding, **data.generation)
        random.seed(_SEEDS["random"])
        np.random.seed(_SEEDS["numpy"])
        torch.manual_seed(_SEEDS["torch"])
        task.task.set_fewshot_seed(seed=_SEEDS["fewshot"])
        with decoding(model, config), alive(model, counter.add):
            found: dict[str, Any] = evaluator.evaluate(
                lm=Model(model, self.tokenizer, backend=self.backend, limits=limits, on_requests=counter.add),
                task_dict={"tasks": {task.name: task.task}},
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=self.chat,
                fewshot_as_multiturn=self.chat,
            )
        return found


def _outcome(task: HarnessTask, results: dict[str, Any]) -> _Outcome:
    values: dict[str, dict[int, Any]] = defaultdict(dict)
    answers: dict[int, list[str]] = {}
    for sample in results["samples"][task.name]:
        number = int(sample["doc_id"])
        for metric in sample["metrics"]:
            values[metric_name(task.name, metric, sample["filter"])][number] = sample[metric]
        if task.task.OUTPUT_TYPE == "generate_until":
            answers.setdefault(number, [str(answer) for answer in sample["resps"][0]])
    return _Outcome(dict(values), answers)


def _results(
    task: HarnessTask, baseline: _Outcome, tuned: _Outcome, seed: int, counter: _Throttled
) -> list[MetricResult]:
    found = []
    for name, measure in task.measures.items():
        if name not in tuned.values or name not in baseline.values:
            raise StageFailure(Reason.BAD_CONFIGURATION, f"lm-eval did not measure {name}; remove it from the task")
        found.append(
            paired_result(
                name,
                baseline.values[name],
                tuned.values[name],
                measure.aggregate,
                mean=measure.aggregate is mean,
                higher_is_better=measure.higher_is_better,
                seed=seed,
                on_resample=lambda: counter.add(1),
            )
        )
    return found


def _rows(task: HarnessTask, baseline: _Outcome, tuned: _Outcome) -> list[dict[str, Any]]:
    numbers = sorted({number for name in task.measures for number in tuned.values[name]})
    return [
        {
            "task": task.name,
            "example": number,
            "scores": {
                str(name): {"baseline": before, "tuned": after}
                for name in task.measures
                if (before := _number(baseline.values[name].get(number))) is not None
                and (after := _number(tuned.values[name].get(number))) is not None
            },
            **(
                {"baseline": baseline.answers[number], "tuned": tuned.answers[number]}
                if number in tuned.answers
                else {}
            ),
        }
        for number in numbers
    ]


def _number(value: Any) -> float | list[float] | None:
    """A value as JSON: a number, or the numbers that a metric is computed from, such as a sum and its weight."""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return float(value)
    if isinstance(value, list | tuple) and value and all(isinstance(part, int | float | np.number) for part in value):
        return [float(part) for part in value]
    return None


def _details(task: HarnessTask, tuned: _Outcome) -> dict[str, Any]:
    version = task.task.VERSION
    values = {name: list(tuned.values[name].values()) for name in task.measures}
    return {
        "source": task.source,
        "version": version if isinstance(version, int | float | str) else None,
        "examples": max(map(len, values.values())),
        "fewshot": task.fewshot,
        "resamples": {
            str(name): resamples_of(values[name], measure.aggregate is mean) for name, measure in task.measures.items()
        },
    }


class _Throttled:
    """Counts, and reports twice a second."""

    def __init__(self, counter: ExampleCounter) -> None:
        self._counter = counter
        self._waiting = 0
        self._last = time.monotonic()

    def add(self, count: int) -> None:
        self._waiting += count
        if time.monotonic() - self._last > _REPORT_SECONDS:
            self._last = time.monotonic()
            self._counter.add(self._waiting)
            self._waiting = 0
