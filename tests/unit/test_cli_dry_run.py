"""What `finetune run --dry-run` says about training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.stage import Device, PrepareResult, Stage, World
from finetune_cli.dry_run import summary_lines, with_all_notes
from finetune_cli.memory import memory_bytes
from finetune_core.summaries import summary
from tests.builders import a_job, a_report
from tests.unit.search_cases import searched, served

CPUS = World(workers=1, processes_per_worker=2, device=Device.CPU)
GPUS = World(workers=1, processes_per_worker=4, device=Device.GPU)


def model_of(parameters: int, rounded: int | None = None) -> PrepareResult:
    result = a_report(Stage.PREPARE).result
    assert isinstance(result, PrepareResult)
    return result.model_copy(update={"parameters": parameters, "rounded_parameters": rounded})


@pytest.mark.parametrize(
    ("method", "zero", "precision", "world", "expected"),
    [
        ("LoRA", 2, "Auto", CPUS, 4),
        ("LoRA", 2, "Auto", GPUS, 2),
        ("LoRA", 3, "BF16", GPUS, 0.5),
        ("Full", 0, "Auto", CPUS, 4 + 4 + 8),
        ("Full", 0, "BF16", GPUS, 2 + 2 + 12),
        ("Full", 2, "FP32", CPUS, 4 + 2 + 6),
        ("Full", 1, "BF16", GPUS, 2 + 2 + 4),
        ("Full", 2, "BF16", GPUS, 2 + 0.5 + 4),
        ("Full", 3, "BF16", GPUS, 0.5 + 0.5 + 4),
    ],
)
def test_memory_for_each_parameter(method: str, zero: int, precision: str, world: World, expected: float) -> None:
    spec = a_job(method={"type": method}, distributed={"zero": {"stage": zero}}, training={"precision": precision}).spec
    assert memory_bytes(spec, model_of(1_000_000), world) == expected * 1_000_000


@pytest.mark.parametrize(
    ("quantization", "stage", "words", "expected"),
    [
        ("NF4", 2, "in NF4 alone;", 0.8 * 0.516 + 0.2 * 2),
        ("NF4", 3, "in NF4 alone, which each process first holds whole;", 0.8 * 0.516 + 0.2 * 2),
        ("Int8", 0, "in Int8 alone;", 0.8 + 0.2 * 2),
    ],
)
def test_memory_of_a_rounded_model(quantization: str, stage: int, words: str, expected: float) -> None:
    model = {"uri": "hf://owner/encoder", "quantization": quantization}
    spec = a_job(model=model, distributed={"zero": {"stage": stage}}).spec
    result = model_of(1_000_000, rounded=800_000)
    assert memory_bytes(spec, result, GPUS) == pytest.approx(expected * 1_000_000, rel=0.01)
    report = a_report(Stage.PREPARE).model_copy(update={"result": result})
    lines = summary_lines(spec, report, result, GPUS)
    assert f"LoRA rank 16 on {quantization}" in lines[3]
    assert words in lines[4]


@pytest.mark.parametrize(
    ("weight", "zero", "precision", "expected"),
    [(0.5, 2, "FP32", 4), (0.5, 3, "BF16", 0.5), (0, 3, "BF16", 0)],
)
def test_memory_of_a_teacher(weight: float, zero: int, precision: str, expected: float) -> None:
    distillation = {"teacher": {"uri": "hf://owner/teacher"}, "weight": weight}
    plan = {"distributed": {"zero": {"stage": zero}}, "training": {"precision": precision}}
    spec = a_job(distillation=distillation, **plan).spec
    result = model_of(1_000_000).model_copy(update={"teacher_parameters": 3_000_000})
    alone = memory_bytes(a_job(**plan).spec, model_of(1_000_000), GPUS)
    assert memory_bytes(spec, result, GPUS) == alone + expected * 3_000_000
    lines = summary_lines(spec, a_report(Stage.PREPARE), result, GPUS)
    assert "teacher   hf://owner/teacher, 3,000,000 parameters" in lines
    assert ("and those of the teacher" in lines[-2]) is (weight > 0)


def test_memory_of_a_teacher_that_generates_answers() -> None:
    """It is not loaded in training."""
    distillation = {"mode": "Responses", "teacher": {"uri": "hf://owner/teacher"}}
    plan = {"distributed": {"zero": {"stage": 2}}, "training": {"precision": "BF16"}}
    spec = a_job(task={"type": "InstructionTuning"}, distillation=distillation, **plan).spec
    result = model_of(1_000_000).model_copy(update={"teacher_parameters": 3_000_000})
    assert memory_bytes(spec, result, GPUS) == memory_bytes(spec, model_of(1_000_000), GPUS)
    lines = summary_lines(spec, a_report(Stage.PREPARE), result, GPUS)
    assert "teacher   hf://owner/teacher, 3,000,000 parameters: about 6.0 MB on 1 GPU while it answers" in lines
    assert "teacher" not in lines[-2]


def test_lines_name_data_model_training_and_memory() -> None:
    report = a_report(Stage.PREPARE)
    assert isinstance(report.result, PrepareResult)
    lines = summary_lines(a_job(training={"batchSize": 100, "epochs": 2}).spec, report, report.result, CPUS)
    assert lines[0].startswith("data      4,967 training, 621 validation and 621 test examples, 9 labels")
    assert lines[2] == "model     hf://owner/encoder, 22,000,000 parameters"
    assert lines[3] == "training  LoRA rank 16, 2 epochs, 100 steps, 100 examples in each, on 2 CPU processes"
    assert lines[4] == (
        "memory    about 88.0 MB in each process for the weights of the base model alone; the adapter with its "
        "gradients and optimizer state, and activations, come on top"
    )
    full = summary_lines(a_job(method={"type": "Full"}).spec, report, report.result, CPUS)[4]
    assert full.endswith(" in each process for weights, gradients and optimizer state; activations come on top")


@pytest.mark.parametrize(
    ("task", "batch"),
    [
        ("InstructionTuning", "32 rows of several examples in each"),
        ("LanguageModeling", "32 rows of joined texts in each"),
    ],
)
def test_a_step_of_joined_examples_trains_on_rows(task: str, batch: str) -> None:
    report = a_report(Stage.PREPARE)
    assert isinstance(report.result, PrepareResult)
    spec = a_job(task={"type": task}, training={"batchSize": 32, "epochs": 4}).spec
    line = summary_lines(spec, report, report.result, CPUS)[3]
    assert line == f"training  LoRA rank 16, 4 epochs, {batch}, on 2 CPU processes"


def test_a_search_trains_nothing() -> None:
    report = a_report(Stage.PREPARE)
    assert isinstance(report.result, PrepareResult)
    here = World(workers=1, processes_per_worker=1, device=Device.CPU)
    lines = summary_lines(a_job(**searched(trials=5, examples=900)).spec, report, report.result, here)
    assert lines[2:-1] == [
        "model     hf://owner/encoder, 22,000,000 parameters",
        "search    PromptSearch, which trains nothing: at most 5 combinations, each scored on 621 validation examples, "
        "on 1 CPU process",
        "memory    about 88.0 MB for the weights of the model; activations come on top",
    ]


def test_neither_parameters_nor_memory_of_an_endpoint_are_said() -> None:
    report = a_report(Stage.PREPARE)
    assert isinstance(report.result, PrepareResult)
    result = report.result.model_copy(update={"parameters": 0})
    spec = a_job(**served(**searched(maxTokens=1000))).spec
    lines = summary_lines(spec, report, result, CPUS)
    assert lines[2:-1] == [
        "model     owner/served at https://models.example/v1",
        "search    PromptSearch, which trains nothing: at most 24 combinations, each scored on 200 validation "
        "examples, with the endpoint; at most 1,000 tokens in all",
    ]


def test_every_note_of_the_data_is_shown(tmp_path: Path) -> None:
    notes = [f"note {number}" for number in range(9)]
    (tmp_path / "data.json").write_text(json.dumps({"notes": notes}))
    report = a_report(Stage.PREPARE)
    assert isinstance(report.result, PrepareResult)
    found = with_all_notes(report, report.result.model_copy(update={"uri": tmp_path.as_uri()}))
    assert "; ".join(notes) in summary(found)
