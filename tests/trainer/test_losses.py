"""The loss of a step does not depend on how its rows are divided, and an empty row adds nothing to it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from finetune_api.spec import TaskType
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks import form_of
from finetune_trainer.tasks.base import WeighsLabels
from finetune_trainer.train.batches import NO_ROW
from finetune_trainer.train.causal import CausalCollator, CausalDataset
from finetune_trainer.train.label_weights import LabelWeights

CHATS = pa.table(
    {
        "input_ids": pa.array([[5, 6, 7, 8], [5, 9], [6, 7, 8, 9, 4, 3]], pa.list_(pa.int32())),
        "labels": pa.array([[-100, -100, 7, 8], [-100, 9], [-100, 7, -100, 9, 4, 3]], pa.list_(pa.int32())),
    }
)


@pytest.mark.parametrize("task", list(TaskType))
def test_micro_batches_add_up_to_the_mean_over_the_step(task: TaskType) -> None:
    torch.manual_seed(1)
    rows, classes = 5, 11
    if task is TaskType.TEXT_CLASSIFICATION:
        logits, labels = torch.randn(rows, classes), torch.tensor([1, 2, IGNORED_LABEL, 4, 5])
        expected = cross_entropy(logits, labels, ignore_index=IGNORED_LABEL)
    elif task is TaskType.QUESTION_ANSWERING:
        logits, labels = torch.randn(rows, 2, classes), torch.randint(classes, (rows, 2))
        labels[2] = IGNORED_LABEL
        both = [cross_entropy(logits[:, side], labels[:, side], ignore_index=IGNORED_LABEL) for side in (0, 1)]
        expected = sum(both) / 2
    else:
        logits, labels = torch.randn(rows, 6, classes), torch.randint(classes, (rows, 6))
        labels[:, :2] = IGNORED_LABEL
        labels[2] = IGNORED_LABEL
        expected = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL)
    count = (labels != IGNORED_LABEL).sum()
    form = form_of(task, task.row.families[0])
    parts = [form.loss(logits[part], labels[part], count) for part in ([0, 1], [2], [3, 4])]
    assert float(sum(parts)) == pytest.approx(float(expected), rel=1e-5)
    assert float(parts[1]) == 0


def test_micro_batches_of_label_lists_add_up_to_the_mean_over_all_decisions() -> None:
    torch.manual_seed(2)
    logits, labels = torch.randn(5, 3), torch.randint(2, (5, 3)).float()
    labels[2] = IGNORED_LABEL
    kept = [0, 1, 3, 4]
    expected = binary_cross_entropy_with_logits(logits[kept], labels[kept])
    form, count = form_of(TaskType.TEXT_CLASSIFICATION, ModelFamily.ENCODER), (labels != IGNORED_LABEL).sum()
    parts = [form.loss(logits[part], labels[part], count) for part in ([0, 1], [2], [3, 4])]
    assert float(sum(parts)) == pytest.approx(float(expected), rel=1e-5)
    assert float(parts[1]) == 0


def test_micro_batches_add_up_to_the_weighted_mean_over_the_weights_of_the_step() -> None:
    torch.manual_seed(3)
    form = form_of(TaskType.TEXT_CLASSIFICATION, ModelFamily.ENCODER)
    assert isinstance(form, WeighsLabels)
    weights = LabelWeights(form, torch.tensor([0.5556, 1.1111, 3.3333]))
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, IGNORED_LABEL, 1, 0])
    expected = cross_entropy(logits, labels, weight=torch.tensor([0.5556, 1.1111, 3.3333]), ignore_index=IGNORED_LABEL)
    total = torch.stack([weights.total(labels[part]) for part in ([0, 1], [2], [3, 4])]).sum()
    parts = [weights.loss(logits[part], labels[part], total) for part in ([0, 1], [2], [3, 4])]
    assert float(sum(parts)) == pytest.approx(float(expected), rel=1e-5)
    assert float(parts[1]) == 0


def test_an_empty_row_is_a_row_without_labels_and_without_gradient() -> None:
    dataset = CausalDataset(CHATS, None)
    batch = CausalCollator(0)([dataset[NO_ROW]])
    assert batch["input_ids"].tolist() == [[5, 9]]
    assert set(batch["labels"].flatten().tolist()) == {IGNORED_LABEL}
    logits = torch.randn(1, 2, 11, requires_grad=True)
    loss = form_of(TaskType.INSTRUCTION_TUNING, ModelFamily.CAUSAL).loss(logits, batch["labels"], torch.tensor(7))
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_an_empty_row_may_also_be_a_packed_one() -> None:
    dataset = CausalDataset(CHATS, 6)
    assert sum(dataset.lengths) == 12
    assert np.all(dataset[NO_ROW]["labels"] == IGNORED_LABEL)
