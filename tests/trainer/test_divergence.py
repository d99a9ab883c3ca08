"""The loss of a distillation, with the figures of cases 16 and 17 of the method cases."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import torch

from finetune_api.spec import DistillationSpec, TaskType
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling import divergence as module
from finetune_trainer.modelling.divergence import divergence
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks import form_of
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.train.distillation import CROSS_ENTROPY, DIVERGENCE, Distillation
from finetune_trainer.train.label_weights import LabelWeights

CLASSES = form_of(TaskType.TEXT_CLASSIFICATION, ModelFamily.ENCODER)
CHAT = form_of(TaskType.INSTRUCTION_TUNING, ModelFamily.CAUSAL)
SUMMARIES = form_of(TaskType.SUMMARIZATION, ModelFamily.SEQ2SEQ)
SPANS = form_of(TaskType.QUESTION_ANSWERING, ModelFamily.ENCODER)

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 1.0], [5.0, 0.0, 0.0]])
TAUGHT = torch.tensor([[6.0, 5.0, -4.0], [-2.0, 6.0, -3.0], [0.0, 5.0, 0.0]])
LABELS = torch.tensor([0, 2, IGNORED_LABEL])


class FixedTeacher:
    """A model with given logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def __call__(self, **_: Any) -> FixedTeacher:
        return self


def lesson(
    form: TaskForm,
    teacher: torch.Tensor,
    tokens: int | None = None,
    weights: LabelWeights | None = None,
    **settings: Any,
) -> Distillation:
    given = {"teacher": {"uri": "s3://models/teacher"}, **settings}
    spec = DistillationSpec.model_validate_json(json.dumps(given))
    fixed = FixedTeacher(teacher)
    return Distillation(fixed, spec, form, tokens=tokens, weights=weights, autocast=contextlib.nullcontext)


def taught_loss(
    distillation: Distillation, form: TaskForm, student: torch.Tensor, labels: torch.Tensor, count: int, **inputs: Any
) -> float:
    targets = distillation.targets({"labels": labels, **inputs})
    found = distillation.loss(form.loss, student, labels, torch.tensor(count), inputs=inputs, targets=targets)
    return float(found)


class TestLossOfCase17:
    def test_has_the_square_of_the_temperature_and_the_mean_of_learned_positions(self) -> None:
        distillation = lesson(CLASSES, TAUGHT, temperature=2, weight=0.5)
        assert taught_loss(distillation, CLASSES, STUDENT, LABELS, 2) == pytest.approx(1.235617, abs=1e-6)
        parts = distillation.parts(1)
        assert parts[CROSS_ENTROPY] == pytest.approx(0.515920, abs=1e-6)
        assert parts[DIVERGENCE] == pytest.approx(0.488828, abs=1e-6)

    @pytest.mark.parametrize("form", [CHAT, SUMMARIES], ids=["causal", "with a decoder"])
    def test_is_the_same_for_tokens(self, form: TaskForm) -> None:
        student, teacher, labels = STUDENT[None], TAUGHT[None], LABELS[None]
        if form is CHAT:  # The label of a token is the target of the one before it.
            last = torch.zeros(1, 1, 3)
            student, teacher = (torch.cat([logits, last], dim=1) for logits in (student, teacher))
            labels = torch.cat([torch.tensor([[IGNORED_LABEL]]), labels], dim=1)
        distillation = lesson(form, teacher, temperature=2, weight=0.5)
        assert taught_loss(distillation, form, student, labels, 2) == pytest.approx(1.235617, abs=1e-6)

    def test_of_micro_batches_adds_up_to_that_of_the_step(self) -> None:
        distillation = lesson(CLASSES, TAUGHT, temperature=2, weight=0.5)
        total = 0.0
        for row in range(3):
            part = slice(row, row + 1)
            one = lesson(CLASSES, TAUGHT[part], temperature=2, weight=0.5)
            total += taught_loss(one, CLASSES, STUDENT[part], LABELS[part], 2)
        assert total == pytest.approx(taught_loss(distillation, CLASSES, STUDENT, LABELS, 2), abs=1e-6)

    def test_with_weight_1_ignores_the_labels(self) -> None:
        found = [
            taught_loss(lesson(CLASSES, TAUGHT, weight=1), CLASSES, STUDENT, torch.tensor(labels), 2)
            for labels in ([0, 2, IGNORED_LABEL], [1, 1, IGNORED_LABEL])
        ]
        assert found == pytest.approx([1.955313] * 2, abs=1e-6)
        assert found[0] == found[1]

    def test_with_weight_0_is_the_cross_entropy(self) -> None:
        found = taught_loss(lesson(CLASSES, TAUGHT, weight=0), CLASSES, STUDENT, LABELS, 2)
        assert found == pytest.approx(0.515920, abs=1e-6)


class TestPaddedVocabularyOfCase16:
    STUDENT = torch.tensor([1.0, 0.0, -1.0, 0.5, 3.0, -5.0])
    TEACHER = torch.tensor([2.0, 1.0, -2.0, 0.0, 4.0, 9.0, 0.0, -1.0])

    def test_has_no_part_in_the_loss(self) -> None:
        student = self.STUDENT.repeat(1, 2, 1)
        labels = torch.tensor([[IGNORED_LABEL, 3]])
        distillation = lesson(CHAT, self.TEACHER.repeat(1, 2, 1), tokens=4, temperature=1, weight=1)
        assert taught_loss(distillation, CHAT, student, labels, 1) == pytest.approx(0.169355, abs=1e-6)


class TestDecisions:
    def test_about_label_lists_are_those_of_a_bernoulli_variable(self) -> None:
        student, teacher = torch.tensor([[1.0, -2.0]]), torch.tensor([[-0.5, 3.0]])
        temperature = 3.0
        distillation = lesson(CLASSES, teacher, weight=1, temperature=temperature)
        found = taught_loss(distillation, CLASSES, student, torch.tensor([[1.0, 0.0]]), 2)
        ours, theirs = (torch.sigmoid(logits / temperature) for logits in (student, teacher))
        each = theirs * (theirs / ours).log() + (1 - theirs) * ((1 - theirs) / (1 - ours)).log()
        assert found == pytest.approx(temperature**2 * float(each.mean()), abs=1e-6)

    def test_about_spans_are_not_for_padding(self) -> None:
        student, teacher = torch.randn(2, 2, 5), torch.randn(2, 2, 5)
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        labels = torch.tensor([[1, 2], [0, 1]])
        inputs = {"attention_mask": mask}
        found = []
        for padding in (0.0, 7.0):
            masked = teacher.masked_fill((mask == 0).unsqueeze(1), padding)
            found.append(taught_loss(lesson(SPANS, masked, weight=1), SPANS, student, labels, 4, **inputs))
        assert found[0] == found[1]
        first, second = (
            taught_loss(
                lesson(SPANS, teacher[row : row + 1, :, :width], weight=1),
                SPANS,
                student[row : row + 1, :, :width],
                labels[row : row + 1],
                4,
                attention_mask=mask[row : row + 1, :width],
            )
            for row, width in ((0, 5), (1, 3))
        )
        assert found[0] == pytest.approx(first + second, abs=1e-5)

    def test_of_weighted_labels_weigh_the_whole_row(self) -> None:
        weights = LabelWeights(CLASSES, torch.tensor([3.0, 1.0, 1.0]))  # type: ignore[arg-type]
        distillation = lesson(CLASSES, TAUGHT, weights=weights, temperature=2, weight=0.5)
        targets = distillation.targets({"labels": LABELS})
        loss = float(distillation.loss(weights.loss, STUDENT, LABELS, torch.tensor(4.0), inputs={}, targets=targets))
        rows = []
        for row in range(2):
            part = slice(row, row + 1)
            one = lesson(CLASSES, TAUGHT[part], temperature=2, weight=0.5)
            rows.append(taught_loss(one, CLASSES, STUDENT[part], LABELS[part], 1))
        assert loss == pytest.approx((3 * rows[0] + rows[1]) / 4, abs=1e-6)


class TestDivergence:
    def test_of_equal_logits_is_zero(self) -> None:
        logits = torch.randn(7, 50)
        assert float(divergence(logits, logits, 2.0)) == 0

    def test_of_no_decision_is_zero_with_gradients(self) -> None:
        logits = torch.randn(0, 5, requires_grad=True)
        found = divergence(logits, torch.randn(0, 5), 2.0)
        found.backward()
        assert float(found.detach()) == 0
        assert logits.grad is not None

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_in_parts_has_the_same_value_and_gradient(
        self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teacher = torch.randn(11, 13).to(dtype)
        found = []
        for values in (1 << 24, 30):
            monkeypatch.setattr(module, "_CHUNK_VALUES", values)
            student = torch.linspace(-2, 2, 11 * 13).reshape(11, 13).to(dtype).requires_grad_()
            total = divergence(student, teacher, 1.5)
            total.backward()
            assert student.grad is not None
            found.append((total.detach(), student.grad))
        torch.testing.assert_close(found[0], found[1])
        expected = (teacher.float() / 1.5).softmax(-1) * (
            (teacher.float() / 1.5).log_softmax(-1) - (student.detach().float() / 1.5).log_softmax(-1)
        )
        assert float(found[0][0]) == pytest.approx(float(expected.sum()), rel=1e-5)
