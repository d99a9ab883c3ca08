"""A Trainer with batches that do not depend on the world size, and an exact validation loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.methods.base import Method
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.patches.transformers import NoStepAfterTheLast
from finetune_trainer.prepared import IGNORED_LABEL
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.train.batches import BatchSizes, EpochBatches
from finetune_trainer.train.data import EpochDataLoader, TrainingDataset
from finetune_trainer.train.distillation import TEACHER, Loss
from finetune_trainer.train.export import VALIDATION_PREFIX
from finetune_trainer.train.first_batches import FirstBatches
from finetune_trainer.train.objective import Objective, Run

if TYPE_CHECKING:
    from finetune_trainer.modelling.fused_loss import FusedLoss
    from finetune_trainer.train.distillation import Distillation
    from finetune_trainer.train.label_weights import LabelWeights
    from finetune_trainer.train.validation_answers import ValidationAnswers

_VALIDATION_BATCH_FACTOR = 2
"""Batch size relative to training; it can be larger, because validation needs no gradients."""

_LOADING_FOR_GPUS: dict[str, Any] = {
    "pin_memory": True,
    "num_workers": 1,
    "prefetch_factor": 4,
    "persistent_workers": True,
}
"""A process makes the next batches during a step, in memory from which GPUs copy at full speed."""


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
        objective: Objective | None = None,
        checkpoint: Path | None = None,
        method: Method,
        reference: Any,
        rate_factors: Mapping[str, float] = MappingProxyType({}),
        fused: FusedLoss | None = None,
        distillation: Distillation | None = None,
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
            objective: What is minimised, if it is not `TaskForm.loss`.
            checkpoint: The checkpoint from which training resumes.
            method: The method that made ``model``.
            reference: The model that the objective compares with before the first step; may be ``model``.
            rate_factors: Factors of the learning rate, by a part of the names of parameters.
            fused: Computes the training loss of the task from hidden states.
            distillation: Adds what a teacher teaches to the training loss; the validation loss is that of the task.
            kwargs: Further arguments of Trainer.
        """
        collator = task.collator(pad_token_id, model)
        loss = weights.loss if weights else task.loss
        # First, because the others report that a checkpoint is complete.
        state = _StateCallback(self, method, objective, checkpoint, distillation)
        kwargs["callbacks"] = [state, *kwargs["callbacks"]]
        super().__init__(
            model=model,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=validation,
            compute_loss_func=lambda outputs, labels, num_items_in_batch: (
                fused.loss if fused is not None and fused.active else self._taught(loss)
            )(logits_of(outputs), labels, num_items_in_batch),
            **kwargs,
        )
        # The loss is that of the task. Models differ in which loss they compute and what they divide it by.
        self.model_accepts_loss_kwargs = False
        self._task = task
        self._sizes = sizes
        self._collate = collator
        self._collate_training = distillation.collator(collator, pad_token_id) if distillation else collator
        self._distillation = distillation
        self._lesson: dict[str, Any] | None = None
        self._training = train_dataset
        self._validation = validation
        self._export_checkpoints = export_checkpoints
        self._answers = answers
        self._weights = weights
        self._objective = objective
        self._rate_factors = rate_factors
        self._undecayed = method.undecayed
        self._reference = reference
        self._fused = fused

    @property
    def run(self) -> Run:
        """The training as this rank sees it."""
        return Run(
            model=self.model_wrapped if self.is_deepspeed_enabled else self.model,
            device=self.args.device,
            rank=self.args.process_index,
            world=self.args.world_size,
            rows=validation_batch_size(self._sizes),
            collate=self._collate,
            prepare=self._prepare_inputs,
            alive=self._alive,
            reference=self._compared_with(),
        )

    def _compared_with(self) -> Any:
        """The reference for `Run`."""
        found = self._reference
        return self.model_wrapped if found is self.model and self.is_deepspeed_enabled else found

    def first_batches(self, rows: int) -> FirstBatches:
        """Batches of ``rows`` random training rows, the same on every rank."""
        model: Any = self.model
        model.to(self.args.device)
        return FirstBatches(
            self._training,
            rows,
            seed=self.args.seed,
            collate=self._collate,
            device=self.args.device,
            alive=self._alive,
        )

    def longest_loss(self) -> torch.Tensor:
        """The loss of the first micro-batch of this rank, one of the longest of the training."""
        first = next(iter(EpochBatches(self._training.lengths, self._sizes, self.args.process_index, self.args.seed)))
        batch = self._prepare_inputs(self._collate_training([self._training[row] for row in first]))
        loss: torch.Tensor = self.compute_loss(self.model, batch, num_items_in_batch=torch.tensor(1))
        return loss

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """The parameters that weight decay pulls towards 0: no biases, no norms, and none that the method names."""
        names: list[str] = super().get_decay_parameter_names(model)
        return [name for name in names if not any(part in name for part in self._undecayed)]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer, in which parameters with a factor are in groups of their own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if not is_new or not self._rate_factors:
            return optimizer
        trained: Any = self.model
        names = {id(parameter): name for name, parameter in trained.named_parameters()}
        for group in list(optimizer.param_groups):
            for part, factor in self._rate_factors.items():
                chosen = [parameter for parameter in group["params"] if part in names[id(parameter)]]
                if chosen:
                    taken = {id(parameter) for parameter in chosen}
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
                    optimizer.add_param_group({**group, "params": chosen, "lr": factor * group["lr"]})
        return optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The micro-batches of a step, and what their losses have in common: the number of labels, unless there is an
        objective.
        """
        batches, labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self._objective.begin_step(self.run, batches) if self._objective else labels

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of a micro-batch, times the number of ranks, over which gradients are averaged."""
        if self._objective is None:
            if self._distillation:
                targets = self._distillation.targets(inputs.pop(TEACHER))
                self._lesson = {"inputs": {**inputs}, "targets": targets}
            with self._fused.hidden_states() if self._fused else nullcontext():
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        assert isinstance(num_items_in_batch, torch.Tensor)
        return self._objective.loss(model, inputs, num_items_in_batch) * self.args.world_size

    def _taught(self, loss: Loss) -> Loss:
        """``loss`` with what the teacher teaches about the batch of `compute_loss`."""
        lesson, self._lesson = self._lesson, None
        return partial(self._distillation.loss, loss, **lesson) if self._distillation and lesson else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, for steps with the parts of their loss; all ranks call this."""
        if self._distillation and "loss" in logs:
            logs |= self._distillation.parts(self.state.global_step)
        super().log(logs, start_time)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this rank. They bypass Accelerate, which would shard them again."""
        batches = EpochBatches(self._training.lengths, self._sizes, self.args.process_index, self.args.seed)
        return EpochDataLoader(
            self._training,
            batch_sampler=batches,
            collate_fn=self._collate_training,
            **_LOADING_FOR_GPUS if self.args.device.type == "cuda" else {},
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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save tied weights once: those that DeepSpeed gathers are copies, which `save_pretrained` would write too."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        if state_dict is not None:
            kept = state_dict.keys() - {target for target, source in tied.items() if source in state_dict}
            state_dict = {name: tensor for name, tensor in state_dict.items() if name in kept}
        super()._save(output_dir, state_dict)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the validation loss, the mean over all labels, which are those of tokens or of rows; and the metrics
        of generated answers.
        """
        run = self.run
        was_training = run.model.training
        run.model.eval()
        loss = self._objective.validation_loss(run) if self._objective else self._mean_loss(run)
        generated = self._answers.measure(self.model, self._alive) if self._answers else {}
        run.model.train(was_training)
        metrics = {"eval_loss": loss}
        metrics |= {f"{VALIDATION_PREFIX}{metric}": value for metric, value in generated.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _mean_loss(self, run: Run) -> float:
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for rows, inputs in run.batches(self._validation):
                labels = inputs.pop("labels")
                logits = logits_of(run.model(**inputs))
                if rows:
                    loss = self._task.loss(logits, labels, torch.tensor(1))
                    total += torch.tensor([float(loss), int((labels != IGNORED_LABEL).sum())], dtype=torch.float64)
        total = run.total(total)
        return float(total[0] / total[1])

    def _alive(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)


class _StateCallback(TrainerCallback):
    """Begins the objective before the first step, and makes it and the state of the method a part of checkpoints."""

    def __init__(
        self,
        trainer: FineTuneTrainer,
        method: Method,
        objective: Objective | None,
        checkpoint: Path | None,
        distillation: Distillation | None,
    ) -> None:
        self._trainer = trainer
        self._method = method
        self._objective = objective
        self._checkpoint = checkpoint
        self._distillation = distillation

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._checkpoint and not self._trainer.is_deepspeed_enabled:  # Its own files have all trained weights.
            self._method.load_state(self._trainer.model, self._checkpoint)
        if self._distillation:
            self._distillation.begin(state.global_step)
        if self._objective:
            self._objective.begin(self._trainer.run, self._checkpoint)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if not self._trainer.is_deepspeed_enabled:
            self._method.save_state(self._trainer.model, checkpoint)
        if self._objective:
            self._objective.save(checkpoint)
