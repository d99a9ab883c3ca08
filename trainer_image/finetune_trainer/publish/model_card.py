"""``README.md`` of an artifact: a Hugging Face model card of what was measured, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from finetune_api.evaluation import Evaluation
from finetune_api.spec import FineTuneJobSpec, Metric, TaskType
from finetune_api.stage import JobIdentity
from finetune_trainer.prepared import DataReport
from finetune_trainer.publish.artifact import published_base
from finetune_trainer.report.page import (
    BASELINE_NAMES,
    METRIC_NAMES,
    format_change,
    format_value,
    grouped,
    settings,
    training_facts,
)

# Names under which the hub knows the metrics.
_HUB_METRICS = {
    Metric.MACRO_F1: "f1",
    Metric.WEIGHTED_F1: "f1",
    Metric.ROUGE_L: "rouge",
    Metric.TOKEN_ACCURACY: "accuracy",
}
_HUB_TASKS = {TaskType.TEXT_CLASSIFICATION: "text-classification", TaskType.INSTRUCTION_TUNING: "text-generation"}
_LABELS_LISTED = 50


@dataclass(frozen=True)
class CardInputs:
    """Everything that the card says."""

    job: JobIdentity
    spec: FineTuneJobSpec
    data: DataReport
    evaluation: Evaluation
    training: Mapping[str, Any]
    """``training.json`` of the trained directory."""
    end_tokens: Sequence[int]
    """InstructionTuning: token ids that ended an answer in the evaluation."""
    adapter: bool
    """Whether the artifact is an adapter; otherwise it is a full model."""
    chat_template: bool
    """Whether the tokenizer has a chat template."""


def render_card(inputs: CardInputs) -> str:
    """The card: YAML front matter, then Markdown. Text of users is put into code or escaped."""
    environment = Environment(  # Markdown, not HTML: what is a user's is escaped below.
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"grouped": grouped, "cell": escape_markdown, "code": inline_code}
    folder = files("finetune_trainer.publish") / "templates"
    template = environment.from_string((folder / "README.md.jinja").read_text(encoding="utf-8"))
    body = template.render(
        job=inputs.job,
        spec=inputs.spec,
        data=inputs.data,
        evaluation=inputs.evaluation,
        adapter=inputs.adapter,
        chat_template=inputs.chat_template,
        classification=inputs.spec.task.type is TaskType.TEXT_CLASSIFICATION,
        base=published_base(inputs.spec.model.uri),
        base_literal=json.dumps(published_base(inputs.spec.model.uri), ensure_ascii=False),
        revision_literal=json.dumps(inputs.data.model.revision) if on_hub(inputs.spec) else None,
        max_new_tokens=inputs.spec.evaluation.generation.max_new_tokens,
        end_tokens=list(inputs.end_tokens) or None,
        labels_listed=_LABELS_LISTED,
        baseline_name=BASELINE_NAMES[inputs.evaluation.baseline.kind],
        metrics=[_metric_row(inputs.evaluation, index) for index in range(len(inputs.evaluation.metrics))],
        settings=settings(inputs.spec),
        training=training_facts(inputs.training),
        versions=inputs.training.get("versions") or {},
        smallest=_smallest_labels(inputs.data),
    )
    return f"---\n{front_matter(inputs)}\n---\n\n{body.strip()}\n"


def front_matter(inputs: CardInputs) -> str:
    """The card's YAML, as the hub reads it."""
    task = _HUB_TASKS[inputs.spec.task.type]
    tags = ["finetune-operator", *(["lora"] if inputs.adapter else [])]
    if on_hub(inputs.spec) and inputs.adapter:
        tags.append(f"base_model:adapter:{published_base(inputs.spec.model.uri)}")
    results = [
        EvalResult(
            task_type=task,
            dataset_type="custom",
            dataset_name=f"{inputs.job.name} {inputs.evaluation.split} split",
            dataset_split=inputs.evaluation.split,
            metric_type=_HUB_METRICS.get(metric.name, str(metric.name)),
            metric_name=METRIC_NAMES[metric.name][0],
            metric_value=round(metric.tuned, 6),
        )
        for metric in inputs.evaluation.metrics
    ]
    card = ModelCardData(
        # The hub knows base models by their names there and by nothing else.
        base_model=published_base(inputs.spec.model.uri) if on_hub(inputs.spec) else None,
        library_name="peft" if inputs.adapter else "transformers",
        license=inputs.data.model.license,
        pipeline_tag=task,
        tags=tags,
        model_name=inputs.job.name,
        eval_results=results,
    )
    return str(card.to_yaml()).strip()


def on_hub(spec: FineTuneJobSpec) -> bool:
    return spec.model.uri.startswith("hf://")


def escape_markdown(text: str) -> str:
    """Text for a table's cell: one line, in which nothing is markup."""
    flat = " ".join(str(text).split())
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>|#!~$" else sign for sign in flat)


def inline_code(text: str) -> str:
    """Text as inline code, fenced with more backticks than it has."""
    flat = " ".join(str(text).split()).replace("|", "\\|")
    runs = [len(run) for run in "".join(sign if sign == "`" else " " for sign in flat).split()]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if runs else ""
    return f"{fence}{space}{flat}{space}{fence}"


def _metric_row(evaluation: Evaluation, index: int) -> dict[str, str]:
    metric = evaluation.metrics[index]
    low, high = metric.interval
    return {
        "name": METRIC_NAMES[metric.name][0],
        "explanation": METRIC_NAMES[metric.name][1],
        "baseline": format_value(metric.name, metric.baseline),
        "tuned": format_value(metric.name, metric.tuned),
        "change": format_change(metric.name, metric.change),
        "interval": f"{format_change(metric.name, low)} to {format_change(metric.name, high)}",
    }


def _smallest_labels(data: DataReport) -> list[tuple[str, int]]:
    """Labels with fewer than 20 training examples, the fewest first, at most five."""
    counts = data.splits["train"].label_counts
    few = sorted((counts.get(label, 0), label) for label in data.labels)
    return [(label, count) for count, label in few if count < 20][:5]
