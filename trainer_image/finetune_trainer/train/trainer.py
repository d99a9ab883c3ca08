"""A Trainer with batches that do not depend on the world size, and an exact validation loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import Trainer

from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.patches.transformers import NoStepAfterTheLast
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.train.batches import BatchSizes, EpochBatches
from finetune_trainer.train.data import EpochDataLoader, TrainingDataset
from finetune_trainer.train.export import VALIDATION_PREFIX

if TYPE_CHECKING:
    from finetune_trainer.train.objective import LabelWeights
    from finetune_trainer.train.validation_answers import ValidationAnswers

_VALIDATION_BATCH_FACTOR = 2
"""Batch size relative to training; it can be larger, because validation needs no gradients."""


def validation_batch_size(sizes: BatchSizes) -> int:
    """Rows in a batch of a rank in validation."""
    # One row remains one row: the model may be one whose outputs depend on padding.
    return sizes.per_device * _VALIDATION_BATCH_FACTOR if sizes.per_device > 1 else 1


class FineTuneTrainer(NoStepAfterTheLast, Trainer):
    """The Trainer of transformers, with a different order of training rows and a different validation."""

    def __init__(
        self,
        *,
        model: Any,
        sizes: BatchSizes,
        task: TaskForm,
        pad_token_id: int,
        train_dataset: TrainingDataset,
        validation: TrainingDataset,
        export_checkpoints: bool,
        answers: ValidationAnswers | None = None,
        weights: LabelWeights | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model: The model.
            sizes: Division of a global batch.
            task: The task.
            pad_token_id: Token id that pads batches.
            train_dataset: The training rows.
            validation: The validation rows.
            export_checkpoints: Whether checkpoints must contain model files, because one may become the result.
            answers: Measures generated answers at each validation.
            weights: Weighs the labels in the training loss; the validation loss is not weighted.
            kwargs: Further arguments of Trainer.
        """
        collator = task.collator(pad_token_id, model)
        loss = weights.loss if weights else task.loss
        super().__init__(
            model=model,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=validation,
            compute_loss_func=lambda outputs, labels, num_items_in_batch: loss(
                logits_of(outputs), labels, num_items_in_batch
            ),
            **kwargs,
        )
        # The loss is that of the task. Models differ in which loss they compute and what they divide it by.
        self.model_accepts_loss_kwargs = False
        self._task = task
        self._sizes = sizes
        self._collate = collator
        self._training = train_dataset
        self._validation = validation
        self._export_checkpoints = export_checkpoints
        self._answers = answers
        self._weights = weights

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this rank. They bypass Accelerate, which would shard them again."""
        batches = EpochBatches(self._training.lengths, self._sizes, self.args.process_index, self.args.seed)
        return EpochDataLoader(
            self._training,
            batch_sampler=batches,
            collate_fn=self._collate,
            pin_memory=torch.cuda.is_available(),
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """What the loss of a step is divided by: its labels, or their weights, on all ranks."""
        if self._weights is None or not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        total = torch.stack([self._weights.total(batch["labels"]) for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(total).sum() if self.args.world_size > 1 else total

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model files, except into checkpoints that are used only to resume.

        The DeepSpeed files of a checkpoint contain the weights; a second copy could double the time to save it.
        """
        in_checkpoint = output_dir is not None and Path(output_dir).parent == Path(str(self.args.output_dir))
        if in_checkpoint and self.is_deepspeed_enabled and not self._export_checkpoints:
            return
        super().save_model(output_dir, _internal_call)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the validation loss, the mean over all labels, which are those of tokens or of rows; and the metrics
        of generated answers.
        """
        model: Any = self.model_wrapped if self.is_deepspeed_enabled else self.model
        was_training = model.training
        model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for rows, counts in self._validation_batches():
                inputs = self._prepare_inputs(self._collate([self._validation[row] for row in rows]))
                labels = inputs.pop("labels")
                logits = logits_of(model(**inputs))
                if counts:
                    loss = self._task.loss(logits, labels, torch.tensor(1))
                    total += torch.tensor([float(loss), int((labels != IGNORED_LABEL).sum())], dtype=torch.float64)
                self._alive()
        generated = self._answers.measure(self.model, self._alive) if self._answers else {}
        model.train(was_training)
        if dist.is_initialized():
            total = total.to(self.args.device)
            dist.all_reduce(total)
        metrics = {"eval_loss": float(total[0] / total[1])}
        metrics |= {f"{VALIDATION_PREFIX}{metric}": value for metric, value in generated.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _alive(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _validation_batches(self) -> list[tuple[list[int], bool]]:
        """The batches of this rank, and whether each counts.

        Ranks with fewer batches get extra ones that do not count, because ZeRO-3 gathers weights on all ranks.
        """
        size = validation_batch_size(self._sizes)
        order = np.argsort(-self._validation.lengths, kind="stable").tolist()
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        world, rank = self.args.world_size, self.args.process_index
        own = [(batch, True) for batch in batches[rank::world]]
        most = -(-len(batches) // world)
        return own + [(batches[-1], False)] * (most - len(own))
