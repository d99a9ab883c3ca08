"""The model card: valid front matter, a valid usage program, and escaped text."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_report import report_inputs

from finetune_api.spec import FineTuneJobSpec, HarnessMetric, TaskType
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.exports import export_of
from finetune_trainer.exports.base import published_base
from finetune_trainer.publish.model_card import CardInputs, render_card
from finetune_trainer.report.format import code_block, escape_markdown, inline_code


def _card(
    task: str = "TextClassification",
    text: str = "refund",
    model: str = "hf://acme/tiny",
    method: str = "LoRA",
    **changes: Any,
) -> str:
    report = report_inputs(task, text)
    document = report.spec.model_dump(mode="json", exclude_none=True) | {"model": {"uri": model}}
    document["method"] = {"type": method}
    spec = FineTuneJobSpec.model_validate_json(json.dumps(document))
    fields: dict[str, Any] = {
        "job": report.job,
        "spec": spec,
        "export": export_of(spec.exports[0]),
        "data": report.data,
        "evaluation": report.evaluation,
        "training": report.training,
        "chat_template": True,
    }
    return render_card(CardInputs(**(fields | changes)))


@pytest.mark.parametrize("task", ["TextClassification", "InstructionTuning"])
@pytest.mark.parametrize("method", ["LoRA", "Full"])
@pytest.mark.parametrize("model", ["hf://acme/tiny", "file:///models/a%20model", "s3://models/tiny"])
@pytest.mark.parametrize("chat_template", [True, False])
def test_the_usage_program_is_valid_python(task: str, method: str, model: str, chat_template: bool) -> None:
    adapter = method == "LoRA"
    card = _card(task, model=model, method=method, chat_template=chat_template)
    code = card.split("```python\n")[1].split("```")[0]
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assert ("PeftModel" in names) is adapter
    if adapter:
        name = published_base(model)
        assert json.dumps(name if model.startswith("hf://") else f"path/to/{name}") in code
        assert ('"c0ffee"' in code) is model.startswith("hf://")


def test_front_matter_has_the_fields_of_the_hub() -> None:
    data = ModelCard(_card()).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("acme/tiny", "peft", "text-classification")
    assert data.tags == ["finetune-operator", "lora", "base_model:adapter:acme/tiny"]
    assert data.license is None
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("accuracy", 0.9),
        ("f1", 0.6),
    ]


def test_a_local_base_model_is_not_in_the_front_matter_but_its_license_is() -> None:
    report = report_inputs()
    model = report.data.model.model_copy(update={"license": "apache-2.0"})
    data = report.data.model_copy(update={"model": model})
    read = ModelCard(_card(model="file:///models/tiny", data=data, method="Full")).data
    assert (read.get("base_model"), read.library_name, read.license) == (None, "transformers", "apache-2.0")
    assert read.tags == ["finetune-operator"]


def test_front_matter_with_a_task_of_lm_eval_is_plain_yaml() -> None:
    evaluation = report_inputs("InstructionTuning", "a").evaluation
    row = evaluation.metrics[0].model_copy(update={"name": HarnessMetric("sums/acc")})
    data = ModelCard(_card("InstructionTuning", evaluation=evaluation.model_copy(update={"metrics": (row,)}))).data
    (found,) = data.eval_results
    assert (found.metric_type, found.metric_name) == ("acc", "sums/acc")


def test_the_card_shows_scores_of_baseline_and_tuned_model() -> None:
    assert "| 0.800 | 0.900 | +0.100 | +0.050 to +0.150 |" in _card()
    assert "| 2.000 | 1.000 | −1.000 | −1.200 to −0.800 |" in _card("InstructionTuning")


def test_labels_from_users_are_escaped() -> None:
    card = _card(text="`a` <script>alert(1)</script> | b\n# heading")
    assert "`` `a` <script>alert(1)</script> \\| b # heading ``" in card
    outside = card.replace("`` `a` <script>alert(1)</script> \\| b # heading ``", "")
    assert "<script>" not in outside


def test_labels_with_few_examples_are_listed_as_a_limitation() -> None:
    assert "The label `other` had only 1 training example." in _card()


@pytest.mark.parametrize(
    ("text", "cell", "code"),
    [
        ("plain", "plain", "`plain`"),
        ("a|b", "a\\|b", "`a\\|b`"),
        ("*x* [y](z)", "\\*x\\* \\[y\\](z)", "`*x* [y](z)`"),
        ("``", "\\`\\`", "``` `` ```"),
    ],
)
def test_escaping(text: str, cell: str, code: str) -> None:
    assert escape_markdown(text) == cell
    assert inline_code(text) == code


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://owner/name", "owner/name"),
        ("file:///a/b%20c", "b c"),
        ("s3://bucket/model", "model"),
    ],
)
def test_the_base_model_has_a_readable_name(uri: str, name: str) -> None:
    assert published_base(uri) == name


@pytest.mark.parametrize(
    ("task", "family", "pipeline"),
    [
        (TaskType.TEXT_CLASSIFICATION, ModelFamily.ENCODER, "text-classification"),
        (TaskType.TEXT_CLASSIFICATION, ModelFamily.CAUSAL, "text-classification"),
        (TaskType.INSTRUCTION_TUNING, ModelFamily.CAUSAL, "text-generation"),
        (TaskType.QUESTION_ANSWERING, ModelFamily.ENCODER, "question-answering"),
        (TaskType.QUESTION_ANSWERING, ModelFamily.CAUSAL, "text-generation"),
        (TaskType.QUESTION_ANSWERING, ModelFamily.SEQ2SEQ, "text2text-generation"),
        (TaskType.SUMMARIZATION, ModelFamily.CAUSAL, "text-generation"),
        (TaskType.SUMMARIZATION, ModelFamily.SEQ2SEQ, "summarization"),
        (TaskType.TRANSLATION, ModelFamily.CAUSAL, "text-generation"),
        (TaskType.TRANSLATION, ModelFamily.SEQ2SEQ, "translation"),
        (TaskType.PREFERENCE_TUNING, ModelFamily.CAUSAL, "text-generation"),
        (TaskType.LANGUAGE_MODELING, ModelFamily.CAUSAL, "text-generation"),
    ],
)
def test_the_pipeline_fits_the_head_of_the_model(task: TaskType, family: ModelFamily, pipeline: str) -> None:
    assert task.row.pipeline_for(family) == pipeline


def test_the_card_has_the_pipeline_of_the_family() -> None:
    data = report_inputs("InstructionTuning", "refund").data.model_copy(update={"family": ModelFamily.CAUSAL})
    assert ModelCard(_card("InstructionTuning", data=data)).data.pipeline_tag == "text-generation"


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("  a\n\n", "```text\n  a\n```"),
        ("a\n```\nb", "````text\na\n```\nb\n````"),
        ("# a <b>", "```text\n# a <b>\n```"),
        ("a" * 1201, f"```text\n{'a' * 1200}…\n```"),
    ],
)
def test_a_block_of_code_is_shown_as_it_is(text: str, block: str) -> None:
    assert code_block(text) == block
