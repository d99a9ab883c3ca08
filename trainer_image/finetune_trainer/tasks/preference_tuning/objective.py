"""PreferenceTuning in training: log-probabilities of answers, compared with those of the reference.

The reference is the base model, with the adapter that training continues from if there is one. Its log-probabilities
are computed once, before the first step, and are part of every checkpoint, so that a resumed attempt compares with the
same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune_api.failures import Reason, StageFailure
from finetune_api.method_settings import PreferenceSpec
from finetune_api.tables.preferences import PreferenceLoss
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.preference_tuning.data import PreferenceDataset, Scores
from finetune_trainer.tasks.preference_tuning.losses import answer_log_probabilities, dpo, kto, odds
from finetune_trainer.train.objective import Batch, Run

REFERENCE = "reference.npz"
"""File in a checkpoint with the log-probabilities of the reference, by split."""


class PreferenceObjective:
    """Implements `finetune_trainer.train.objective.Objective`."""

    def __init__(
        self, preference: PreferenceSpec, train: PreferenceDataset, validation: PreferenceDataset, batching: bool
    ) -> None:
        """
        Args:
            preference: The loss and its settings.
            train: The training split.
            validation: The validation split.
            batching: Whether sequences of different length may share a batch.
        """
        self._preference = preference
        self._splits = {"train": train, "validation": validation}
        self._batching = batching

    def begin(self, run: Run, checkpoint: Path | None) -> None:
        if not self._preference.loss.row.has_reference:
            return
        stored = None if checkpoint is None else _stored(checkpoint)
        for name, data in self._splits.items():
            found = self._measured(run, data, run.reference) if stored is None else stored.get(name)
            if found is None or found.shape != data.reference.shape:
                raise StageFailure(
                    Reason.BAD_CONFIGURATION,
                    f"the checkpoint has no log-probabilities of the base model for the {name} split: delete it to "
                    "train from the start",
                )
            data.reference[:] = found

    def save(self, checkpoint: Path) -> None:
        if self._preference.loss.row.has_reference:
            train, validation = (data.reference for data in self._splits.values())
            np.savez(checkpoint / REFERENCE, allow_pickle=False, train=train, validation=validation)

    def begin_step(self, run: Run, batches: Sequence[Batch]) -> torch.Tensor:
        """Rows, tokens of chosen answers, and with KTO the divergence from the reference; of shape (3,)."""
        totals = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            real = batch["labels"] != IGNORED_LABEL
            totals[0] += real.sum()
            totals[1] += batch["counts"][real, 0].sum()
            if self._preference.loss is PreferenceLoss.KTO:
                moved = run.prepare(batch)
                with torch.no_grad(), _evaluating(run.model):
                    ahead = self._sums(run.model, moved, 1) - moved["reference"][:, 1]
                totals[2] += ahead.cpu()[real].double().sum()
                run.alive()
        totals = run.total(totals)
        return torch.cat([totals[:2], (totals[2:] / totals[0]).clamp(min=0)]).float()

    def loss(self, model: Any, batch: Batch, step: torch.Tensor) -> torch.Tensor:
        if self._preference.loss is PreferenceLoss.KTO:
            # The second answers have no gradient, and are measured for the whole step.
            sums = torch.stack([self._sums(model, batch, 0), torch.zeros_like(batch["reference"][:, 1])], dim=1)
        elif self._batching:
            sums = self._run(model, batch, slice(None)).view(2, -1).T
        else:
            sums = torch.stack([self._sums(model, batch, side) for side in (0, 1)], dim=1)
        return self._loss(sums, batch, step)

    def validation_loss(self, run: Run) -> float:
        data = self._splits["validation"]
        sums = torch.from_numpy(self._measured(run, data, run.model))
        rows = {"reference": data.reference, "counts": data.counts, "labels": data.labels}
        batch = {name: torch.from_numpy(values) for name, values in rows.items()}
        divergence = (sums - batch["reference"])[:, 1].mean().clamp(min=0)
        step = torch.tensor([len(data), int(data.counts[:, 0].sum()), float(divergence)])
        return float(self._loss(sums, batch, step))

    def _loss(self, sums: torch.Tensor, batch: Batch, step: torch.Tensor) -> torch.Tensor:
        """The part of rows in the loss of a step.

        Args:
            sums: Log-probabilities of both answers, of shape (rows, 2).
            batch: ``reference``, ``counts`` and ``labels`` of the rows.
            step: The result of `begin_step`.
        """
        preference, (rows, tokens, divergence) = self._preference, step
        gains = sums - batch["reference"]
        if preference.loss is PreferenceLoss.DPO:
            losses = dpo(gains[:, 0], gains[:, 1], preference.beta)
        elif preference.loss is PreferenceLoss.KTO:
            weights = (preference.undesirable_weight, preference.desirable_weight)
            losses = kto(gains[:, 0], batch["labels"] == 1, divergence, preference.beta, weights)
        else:
            means = sums / batch["counts"]
            losses = preference.beta * odds(means[:, 0], means[:, 1]) - sums[:, 0] * (rows / tokens)
        part: torch.Tensor = (losses * (batch["labels"] != IGNORED_LABEL)).sum() / rows
        return part

    def _measured(self, run: Run, data: PreferenceDataset, model: Any) -> Scores:
        """Log-probabilities of both answers of all rows of ``data`` according to ``model``, of shape (rows, 2); the
        same on all ranks.
        """
        found = torch.zeros((len(data), 2), dtype=torch.float64)
        with torch.no_grad(), _evaluating(run.model):
            for rows, batch in run.batches(data):
                sums = torch.stack([self._sums(model, batch, side) for side in (0, 1)], dim=1)
                if rows:
                    found[rows] = sums.cpu().double()
        measured: Scores = run.total(found).float().cpu().numpy()
        return measured

    def _sums(self, model: Any, batch: Batch, side: int) -> torch.Tensor:
        """Log-probabilities of the first or second answers of a batch, of shape (rows,)."""
        half = len(batch["input_ids"]) // 2
        return self._run(model, batch, slice(side * half, (side + 1) * half))

    def _run(self, model: Any, batch: Batch, part: slice) -> torch.Tensor:
        """Log-probabilities of the answers of a part of the sequences."""
        tokens, mask, answers = (batch[name][part] for name in ("input_ids", "attention_mask", "answers"))
        width = int(mask.sum(dim=1).max())
        tokens, mask, answers = tokens[:, :width], mask[:, :width], answers[:, :width]
        logits = logits_of(model(input_ids=tokens, attention_mask=mask))
        return answer_log_probabilities(logits, tokens, answers)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Context in which ``model`` drops nothing out."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _stored(checkpoint: Path) -> dict[str, Scores]:
    path = checkpoint / REFERENCE
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)
