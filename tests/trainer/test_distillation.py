"""Jobs whose models learn from the logits of a teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from finetune_api.failures import Reason
from finetune_api.spec import TaskType
from finetune_api.stage import Stage
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.teacher import load_teacher
from finetune_trainer.prepared import read_report
from finetune_trainer.tasks import form_of
from tests.trainer.conftest import prepared
from tests.trainer.stages import TinyJob, classification_job, instruction_job, merged, write_jsonl
from tests.trainer.teacher_models import save_classifier, save_generator, taught_by
from tests.trainer.tiny_models import LABELS, SPECIAL, TEMPLATE

TEACHER_LABELS = ("weather", "fruit", "metal")
CPU: dict[str, Any] = {"distributed": {"zero": {"stage": 0}}}


def done(job: TinyJob, *stages: Stage, **settings: Any) -> str:
    """Run stages of a job; returns the log of the last."""
    log = ""
    for stage in stages:
        outcome = job.run(stage, **settings)
        assert outcome.code == 0, outcome.log
        log = outcome.log
    return log


def divergences(job: TinyJob) -> list[float]:
    return [point["divergence"] for point in job.history()]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A classifier with a teacher that has the labels in another order, and dropout in its configuration; prepared."""
    root = tmp_path_factory.mktemp("taught")
    teacher = save_classifier(root / "teacher", TEACHER_LABELS, dropout=0.5, num_hidden_layers=4)
    settings = {"distillation": taught_by(teacher, weight=0.7, temperature=3), "method": {"type": "Full"}}
    return prepared(classification_job(root, examples=120).changed(**settings, **CPU))


@pytest.fixture(scope="module")
def published(taught: TinyJob) -> TinyJob:
    job = taught.named("published")
    done(job, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)
    return job


class TestAClassifier:
    def test_learns_from_both_parts_of_its_loss(self, published: TinyJob) -> None:
        for point in published.history():
            expected = 0.3 * point["crossEntropy"] + 0.7 * 9 * point["divergence"]
            assert point["loss"] == pytest.approx(expected, rel=1e-5)
        assert len(published.history()) == 12

    def test_is_measured_beside_its_teacher(self, published: TinyJob) -> None:
        directory = published.root / "teacher"
        model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
        tokenizer = AutoTokenizer.from_pretrained(directory)
        right = []
        for row in published.predictions:
            with torch.inference_mode():
                logits = model(**tokenizer(row["text"], return_tensors="pt")).logits
            right.append(TEACHER_LABELS[int(logits.argmax())] == row["label"])
        accuracy = published.evaluation["metrics"][0]
        assert accuracy["teacher"] == pytest.approx(np.mean(right))
        # The recalls of the labels, each as often as its test examples.
        labels = published.evaluation["details"]["labels"]
        hits = sum(row["teacher"]["recall"] * row["testExamples"] for row in labels)
        assert hits == pytest.approx(sum(right))
        costs = published.evaluation["costs"]
        assert costs["teacher"]["parameters"] == sum(weight.numel() for weight in model.parameters())
        assert costs["student"]["parameters"] < costs["teacher"]["parameters"]
        assert costs["student"]["bytes"] == 4 * costs["student"]["parameters"]
        assert min(one["tokensPerSecond"] for one in (costs["student"], costs["teacher"])) > 0

    def test_names_its_teacher_in_report_and_card(self, published: TinyJob) -> None:
        report, card = ((published.artifact / name).read_text() for name in ("report.html", "README.md"))
        assert '<th class="n">Teacher</th>' in report
        assert '<th class="n" colspan="3">Teacher</th>' in report
        assert "Parts of the training loss, before their weights" in report
        assert "validation, cross entropy alone" in report
        assert "| Metric | Baseline | Tuned | Teacher | Change |" in card
        assert "| Weight and temperature of the teacher | 0.7, 3 |" in card
        for page in (report, card):
            assert "The student has" in page
            assert "parameters" in page

    def test_trains_and_publishes_no_weight_of_the_teacher(self, published: TinyJob) -> None:
        weights = load_file(published.artifact / "model.safetensors")
        student = published.evaluation["costs"]["student"]["parameters"]
        assert sum(tensor.numel() for tensor in weights.values()) == student
        trained = f"| Trainable parameters | {student // 1000} {student % 1000} |"
        assert trained in (published.artifact / "README.md").read_text()

    def test_with_weight_0_is_trained_as_without_a_teacher(self, taught: TinyJob) -> None:
        weightless = taught.named("weightless", distillation={"weight": 0})
        alone = taught.named("alone")
        del alone.spec["distillation"]
        done(weightless, Stage.TRAIN)
        done(alone, Stage.TRAIN)
        first, second = (one.revision / "trained" / "model.safetensors" for one in (weightless, alone))
        assert first.read_bytes() == second.read_bytes()
        assert weightless.losses() == alone.losses()
        assert "divergence" not in weightless.history()[0]

    def test_with_another_teacher_at_the_address_is_not_resumed(self, taught: TinyJob) -> None:
        moved = taught.root / "moved"
        shutil.copytree(taught.root / "teacher", moved)
        job = taught.changed(distillation=taught_by(moved))
        job.name = "changed-teacher"
        prepared(job)
        save_classifier(moved, TEACHER_LABELS, seed=77)
        outcome = job.run(Stage.TRAIN)
        assert outcome.report.error is not None
        assert outcome.report.error.reason is Reason.BAD_CONFIGURATION
        assert "changed after the prepare stage" in outcome.message
        assert "spec.distillation.teacher.uri" in outcome.message

    def test_weighs_its_rows_by_label(self, taught: TinyJob) -> None:
        job = taught.named("weighted", task={"classWeights": "Balanced"}, training={"maxSteps": 2})
        done(job, Stage.TRAIN)
        point = job.history()[0]
        assert point["loss"] == pytest.approx(0.3 * point["crossEntropy"] + 6.3 * point["divergence"], rel=1e-5)


class TestDropoutOfCase18:
    """The student has the weights of its teacher, and learns so slowly that it keeps them."""

    @staticmethod
    def job(root: Path, of_teacher: float, of_student: float, seed: int = 1) -> TinyJob:
        student = save_classifier(root / "student", dropout=of_student)
        teacher = save_classifier(root / "teacher", dropout=of_teacher)
        job = classification_job(root, examples=60).changed(
            model={"uri": student.as_uri()},
            method={"type": "Full"},
            training={"maxSteps": 5, "learningRate": 1e-9, "seed": seed},
            distillation=taught_by(teacher, weight=1, temperature=2),
            **CPU,
        )
        prepared(job)
        done(job, Stage.TRAIN)
        return job

    def test_of_the_teacher_is_off(self, tmp_path: Path) -> None:
        assert max(divergences(self.job(tmp_path, of_teacher=0.5, of_student=0.0))) < 1e-6

    def test_changes_no_logit_of_the_teacher(self, taught: TinyJob) -> None:
        """They are those of the evaluation, at every step and for every seed, in the order of the job's labels."""
        report = read_report(taught.revision / "prepared")
        directory = taught.root / "teacher"
        tokens = torch.tensor([[5, 17, 6, 25]])
        mask = torch.ones_like(tokens)
        plain = AutoModelForSequenceClassification.from_pretrained(directory).eval()
        expected = plain(input_ids=tokens, attention_mask=mask).logits.detach()
        form = form_of(TaskType.TEXT_CLASSIFICATION, ModelFamily.ENCODER)
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.random.get_rng_state()
            teacher = load_teacher(directory, report, form, torch.float32)
            assert torch.equal(torch.random.get_rng_state(), before)
            assert not any(weight.requires_grad for weight in teacher.parameters())
            for _ in range(2):
                found = teacher(input_ids=tokens, attention_mask=mask).logits
                columns = [TEACHER_LABELS.index(label) for label in LABELS]
                torch.testing.assert_close(found, expected[:, columns], rtol=0, atol=0)

    def test_of_the_student_is_on(self, tmp_path: Path) -> None:
        first = divergences(self.job(tmp_path, of_teacher=0.0, of_student=0.5))
        assert min(first) > 1e-3


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    """A causal model with an adapter, two processes and ZeRO-3, whose teacher has a padded vocabulary."""
    root = tmp_path_factory.mktemp("processes")
    teacher = save_generator(root / "teacher", vocab_size=80)
    job = instruction_job(root, examples=120).changed(
        method={"type": "LoRA", "lora": {"dropout": 0.0}},
        training={"checkpoint": {"everySteps": 4, "keep": 3}},
        distillation=taught_by(teacher, weight=0.4),
        distributed={"zero": {"stage": 3}},
    )
    prepared(job)
    done(job, Stage.TRAIN, processes=2)
    return job


class TestProcesses:
    def test_share_a_teacher_with_zero_3(self, reference: TinyJob) -> None:
        log = (reference.root / "runs" / "tiny-train-1" / "log").read_text()
        assert "the teacher has 25760 weights, of which this process keeps 12" in log

    @pytest.mark.parametrize(("stage", "processes"), [(0, 1), (2, 2)])
    def test_of_any_number_compute_the_same(self, stage: int, processes: int, reference: TinyJob) -> None:
        job = reference.named(f"zero-{stage}", distributed={"zero": {"stage": stage}})
        done(job, Stage.TRAIN, processes=processes)
        assert_same(job, reference)

    def test_resume_in_another_number(self, reference: TinyJob) -> None:
        job = reference.named("resumed")
        name = "step-00000004"
        shutil.copytree(reference.revision / "checkpoints" / name, job.revision / "checkpoints" / name)
        done(job, Stage.TRAIN, attempt=2, processes=1)
        assert_same(job, reference)


def test_a_rounded_student_learns_from_an_exact_teacher_in_half_precision(reference: TinyJob) -> None:
    job = reference.changed(
        model={"quantization": "NF4"},
        training={"maxSteps": 2, "precision": "BF16"},
        evaluation={"metrics": ["loss"]},
        **CPU,
    )
    job.name = "rounded"
    prepared(job)
    done(job, Stage.TRAIN, Stage.EVALUATE)
    assert min(divergences(job)) > 0
    costs = job.evaluation["costs"]
    assert costs["teacher"]["bytes"] == 2 * costs["teacher"]["parameters"]
    trained = json.loads((job.revision / "trained" / "training.json").read_text())["trainableParameters"]
    whole = json.loads((job.revision / "prepared" / "data.json").read_text())["model"]["parameters"]
    assert costs["student"]["parameters"] == whole + trained


def assert_same(job: TinyJob, reference: TinyJob) -> None:
    for field in ("step", "loss", "crossEntropy", "divergence"):
        found, expected = ([point[field] for point in one.history()] for one in (job, reference))
        assert found == pytest.approx(expected, rel=1e-4)


def counting_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of ``size`` words, those of case 16 among them."""
    words = [*SPECIAL, "Count", "to", *(str(number) for number in range(20)), *(f"{number}." for number in range(20))]
    words += [f"word{number}" for number in range(size - len(words))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", chat_template=TEMPLATE
    )


def test_case_16_runs_with_padding_rows_of_the_teacher(tmp_path: Path) -> None:
    tokenizer = counting_tokenizer(512)
    for name, width in (("base", 512), ("teacher", 640)):
        save_generator(tmp_path / name, vocab_size=width)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [
        {"prompt": f"Count to {last}.", "completion": " ".join(map(str, range(1, last + 1)))} for last in range(2, 14)
    ]
    spec: dict[str, Any] = {
        "model": {"uri": (tmp_path / "base").as_uri()},
        "task": {"type": "InstructionTuning"},
        "dataset": {
            "train": {"uri": write_jsonl(tmp_path / "train.jsonl", rows)},
            "test": {"fraction": 0.2, "minimumExamples": 1},
        },
        "method": {"type": "Full"},
        "training": {"maxSteps": 20, "batchSize": 4, "learningRate": 5e-3, "maxSequenceLength": 64},
        "evaluation": {"generation": {"maxNewTokens": 8}, "publishWorse": True},
        "distributed": {"gpusPerWorker": 0, "zero": {"stage": 0}},
        "distillation": taught_by(tmp_path / "teacher", mode="Logits", temperature=1, weight=0.5),
        "output": {"uri": (tmp_path / "storage").as_uri()},
    }
    job = TinyJob(tmp_path, merged(spec, {}))
    result = job.run(Stage.PREPARE).report.result
    assert result is not None
    assert "128 padding rows of the teacher are not used" in result.notes  # type: ignore[union-attr]
    done(job, Stage.TRAIN, Stage.EVALUATE)
    assert len(job.history()) == 20
    assert all(metric["teacher"] is not None for metric in job.evaluation["metrics"])
