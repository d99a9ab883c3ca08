"""``README.md`` of an artifact: a Hugging Face model card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from finetune_api.evaluation import Evaluation, SliceScore
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import JobIdentity
from finetune_trainer.evaluate.power import FEWEST
from finetune_trainer.exports.base import Export, on_hub, published_base
from finetune_trainer.methods import method_of
from finetune_trainer.prepared import DataReport
from finetune_trainer.report.format import escape_markdown, format_change, format_value, grouped, inline_code
from finetune_trainer.report.page import BASELINE_NAMES, exact_base_text, settings, training_facts
from finetune_trainer.report.teacher import has_teacher, teacher_text
from finetune_trainer.tasks import form_for


@dataclass(frozen=True)
class CardInputs:
    """Inputs of the model card."""

    job: JobIdentity
    spec: FineTuneJobSpec
    data: DataReport
    evaluation: Evaluation
    training: Mapping[str, Any]
    """Content of ``training.json``."""
    export: Export
    """The export format of the artifact."""
    chat_template: bool
    """Whether the tokenizer has a chat template."""
    predictions: Iterable[Mapping[str, Any]] = ()
    """Rows of ``predictions.jsonl``, which are read when a task asks for them; none if the spec hides them."""

    @property
    def of_usage(self) -> dict[str, Any]:
        """Template variables of the usage program, for all tasks."""
        return {
            "adapter": self.export.is_adapter,
            "base_literal": json.dumps(_base_of_usage(self.spec), ensure_ascii=False),
            "revision_literal": json.dumps(self.data.model.revision) if on_hub(self.spec) else None,
            "storage": _storage(self.training.get("quantization")),
            "loading": self._loading,
            "places": method_of(self.spec.method.type).logit_offset(self.spec),
            "data": self.data,
        }

    @property
    def _loading(self) -> dict[str, str]:
        """Further arguments of ``from_pretrained`` for the base model in the program."""
        arguments = {"revision": json.dumps(self.data.model.revision)} if on_hub(self.spec) else {}
        if not self.training.get("quantization"):
            return arguments | {"dtype": '"auto"'}
        # Its weights are rounded from those in the precision of the training.
        dtype = {"BF16": "bfloat16", "FP16": "float16"}.get(str(self.training.get("precision")), "float32")
        return arguments | {"quantization_config": "storage", "dtype": json.dumps(dtype)}


def _storage(quantization: Mapping[str, Any] | None) -> str | None:
    """How the program stores the base model, as a Python expression; None if it is not rounded."""
    if not quantization:
        return None
    lines = [
        f"    {name}={value if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)},"
        for name, value in quantization.items()
    ]
    return "\n".join(["BitsAndBytesConfig(", *lines, ")"])


def _base_of_usage(spec: FineTuneJobSpec) -> str:
    """The base model in the program: a Hub id, or a path that the reader changes and that is no Hub id."""
    name = published_base(spec.model.uri)
    return name if on_hub(spec) else f"path/to/{name}"


def render_card(inputs: CardInputs) -> str:
    """The model card: YAML front matter and Markdown. Text from users is escaped or in code spans."""
    environment = Environment(  # The result is Markdown; filters escape text from users.
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"grouped": grouped, "cell": escape_markdown, "code": inline_code}
    environment.globals["compared"] = inputs.evaluation.baseline.kind.compared
    folder = files("finetune_trainer.publish") / "templates"
    template = environment.from_string((folder / "README.md.jinja").read_text(encoding="utf-8"))
    body = template.render(
        job=inputs.job,
        spec=inputs.spec,
        data=inputs.data,
        evaluation=inputs.evaluation,
        form=method_of(inputs.spec.method.type).form,
        parts=form_for(inputs.spec, inputs.data.family).presentation().card(inputs, environment),
        base=inputs.spec.model.address if inputs.spec.model.endpoint else published_base(inputs.spec.model.uri),
        trains=inputs.spec.method.type.row.trains,
        revision_literal=json.dumps(inputs.data.model.revision) if on_hub(inputs.spec) else None,
        baseline_name=BASELINE_NAMES[inputs.evaluation.baseline.kind],
        metrics=[_metric_row(inputs.evaluation, index) for index in range(len(inputs.evaluation.metrics))],
        slices=[_slice_row(inputs.evaluation, one) for one in inputs.evaluation.slices],
        fewest=FEWEST,
        has_teacher=has_teacher(inputs.evaluation),
        teacher=teacher_text(inputs.evaluation),
        exact_base=exact_base_text(inputs.spec, inputs.evaluation),
        settings=settings(inputs.spec, inputs.data),
        training=training_facts(inputs.training),
        versions=inputs.training.get("versions") or {},
    )
    return f"---\n{front_matter(inputs)}\n---\n\n{body.strip()}\n"


def front_matter(inputs: CardInputs) -> str:
    """The YAML front matter, in the format of the Hugging Face Hub."""
    task = inputs.spec.task.type.row.hub_task
    tags = ["finetune-operator", *method_of(inputs.spec.method.type).tags]
    if on_hub(inputs.spec) and inputs.export.is_adapter:
        tags.append(f"base_model:adapter:{published_base(inputs.spec.model.uri)}")
    results = [
        EvalResult(
            task_type=task,
            dataset_type="custom",
            dataset_name=f"{inputs.job.name} {inputs.evaluation.split} split",
            dataset_split=inputs.evaluation.split,
            metric_type=metric.name.row.hub_name,
            metric_name=metric.name.row.title,
            metric_value=round(metric.tuned, 6),
        )
        for metric in inputs.evaluation.metrics
    ]
    card = ModelCardData(
        # The Hub accepts only Hub ids as base models.
        base_model=published_base(inputs.spec.model.uri) if on_hub(inputs.spec) else None,
        library_name=inputs.export.library,
        license=inputs.data.model.license,
        pipeline_tag=inputs.spec.task.type.row.pipeline_for(inputs.data.family),
        tags=tags,
        model_name=inputs.job.name,
        eval_results=results,
    )
    return str(card.to_yaml()).strip()


def _metric_row(evaluation: Evaluation, index: int) -> dict[str, str]:
    metric = evaluation.metrics[index]
    low, high = metric.interval
    return {
        "name": metric.name.row.title,
        "explanation": metric.name.row.meaning,
        "baseline": format_value(metric.name, metric.baseline),
        "tuned": format_value(metric.name, metric.tuned),
        "teacher": format_value(metric.name, metric.teacher),
        "change": format_change(metric.name, metric.change),
        "interval": f"{format_change(metric.name, low)} to {format_change(metric.name, high)}",
    }


def _slice_row(evaluation: Evaluation, one: SliceScore) -> dict[str, Any]:
    score = evaluation.metrics[0].name
    return {
        "column": one.column,
        # The quotation marks show white space at the ends, and a line break does not end the row.
        "value": "no value" if one.value is None else inline_code(json.dumps(one.value, ensure_ascii=False)),
        "examples": one.examples,
        "baseline": format_value(score, one.baseline),
        "tuned": format_value(score, one.tuned),
        "verdict": one.verdict or "–",
    }
