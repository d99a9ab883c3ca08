"""Weights of labels in the training loss."""

from __future__ import annotations

import torch

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.prepared import IGNORED_LABEL, DataReport
from finetune_trainer.tasks.base import TaskForm, WeighsLabels


class LabelWeights:
    """Weighs the labels of a classifier in the training loss, which is divided by the sum of the weights."""

    def __init__(self, form: WeighsLabels, weights: torch.Tensor) -> None:
        self._form = form
        self._weights = weights

    def total(self, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the weights of ``labels`` that are not ignored, in double precision."""
        return self.of(labels[labels != IGNORED_LABEL]).sum(dtype=torch.float64)

    def of(self, labels: torch.Tensor) -> torch.Tensor:
        """The weight of each of ``labels``, none of which is ignored."""
        return self._weights.to(labels.device)[labels]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """See `finetune_trainer.tasks.base.WeighsLabels.weighted_loss`."""
        return self._form.weighted_loss(logits, labels, total, self._weights.to(logits.device))


def label_weights(form: TaskForm, spec: FineTuneJobSpec, data: DataReport) -> LabelWeights | None:
    """The weights of labels that the job asks for; None if all labels count the same."""
    if not isinstance(form, WeighsLabels):
        return None
    weights = form.label_weights(spec, data)
    return None if weights is None else LabelWeights(form, torch.tensor(weights))
