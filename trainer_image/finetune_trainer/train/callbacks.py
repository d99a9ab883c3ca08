"""Trainer callbacks: report events, stop training, and decide when to save checkpoints."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.events import CheckpointEvent, StepEvent, ValidationEvent
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import EarlyStoppingSpec
from finetune_trainer.context import Reporter
from finetune_trainer.train.distillation import CROSS_ENTROPY, DIVERGENCE
from finetune_trainer.train.export import VALIDATION_LOSS, validation_metrics
from finetune_trainer.train.stop import StopRequest


class Agreement:
    """Agreement of all ranks on flags: a flag is set on all ranks if any rank sets it."""

    def __init__(self) -> None:
        # A separate process group on the CPU, so that the all-reduce does not wait for the GPU.
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        if self._group is None:
            return flags
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group)
        return tuple(bool(vote) for vote in votes)


class FlowCallback(TrainerCallback):
    """Stops on request after a checkpoint, stops early, and skips checkpoints while another is uploading."""

    def __init__(self, stop: StopRequest, busy: Path, early_stopping: EarlyStoppingSpec | None) -> None:
        self._stop = stop
        self._busy = busy
        self._early_stopping = early_stopping
        self._agreement = Agreement()
        self.stopped = False
        self.stopped_early = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Handle SIGTERM from now on, because there is state to save."""
        self._stop.listen()
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        stop, busy = self._agreement.any_rank(self._stop.is_set, self._busy.exists())
        self._stop.sign_of_life()
        finished = state.global_step >= state.max_steps
        if stop:
            self._stop.agree()
        if stop and not finished:
            self.stopped = True
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True
        elif busy and not finished:
            control.should_save = False
        if control.should_save:
            self._stop.saving()
        return control

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop.agree()

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop.sign_of_life()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._stop.sign_of_life()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop.sign_of_life()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> TrainerControl:
        """All ranks decide the same, because the validation loss is the same on all ranks."""
        if rule := self._early_stopping:
            best, waited = best_validation(validation_losses(state), rule.min_delta)
            if best == state.global_step:
                control.should_save = True
            if waited >= rule.patience and state.global_step < state.max_steps:
                self.stopped_early = True
                control.should_training_stop = True
        if control.should_save:
            self._stop.saving()
        return control


def validation_losses(state: TrainerState) -> list[tuple[float, int]]:
    """(loss, step) of each validation so far, including those before a resume."""
    return [(entry[VALIDATION_LOSS], int(entry["step"])) for entry in state.log_history if VALIDATION_LOSS in entry]


def best_validation(losses: list[tuple[float, int]], min_delta: float) -> tuple[int, int]:
    """The step of the best validation loss so far, and the number of validations since then.

    Args:
        losses: (loss, step) of each validation, in order.
        min_delta: Smallest decrease of the loss that counts as an improvement.
    """
    best_loss, best_step, waited = math.inf, 0, 0
    for loss, step in losses:
        if loss < best_loss - min_delta:
            best_loss, best_step, waited = loss, step, 0
        else:
            waited += 1
    return best_step, waited


class ReportCallback(TrainerCallback):
    """Sends events about steps, validations and checkpoints to the host; fails if the loss is not finite."""

    def __init__(
        self,
        reporter: Reporter,
        tokens_of_step: Callable[[int], int],
        provenance: Callable[[int], dict[str, object]],
        best_step: Callable[[TrainerState], int | None],
    ) -> None:
        self._reporter = reporter
        self._tokens_of_step = tokens_of_step
        self._provenance = provenance
        self._best_step = best_step
        self._since = time.perf_counter()
        self._reported_step = 0
        self._save_since = 0.0
        self.train_seconds = 0.0
        """Duration of the steps of this attempt in seconds, without validations and checkpoints."""
        self.train_tokens = 0
        """Tokens of these steps."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._reported_step = state.global_step
        self._since = time.perf_counter()
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """The duration of a checkpoint starts here, also if the step is not logged."""
        self._save_since = time.perf_counter()
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        logs: dict[str, float] = kwargs["logs"]
        if VALIDATION_LOSS in logs or "loss" not in logs:
            return control
        step = state.global_step
        _check_finite(logs, step)
        steps = range(self._reported_step, step)
        tokens = sum(self._tokens_of_step(done) for done in steps)
        seconds = time.perf_counter() - self._since
        state.log_history[-1] |= {"seconds": round(seconds, 6), "tokens": tokens}
        self.train_seconds += seconds
        self.train_tokens += tokens
        if state.is_world_process_zero:
            self._reporter.send(
                StepEvent(
                    step=step,
                    total=state.max_steps,
                    epoch=state.epoch or 0.0,
                    loss=logs["loss"],
                    cross_entropy=logs.get(CROSS_ENTROPY),
                    divergence=logs.get(DIVERGENCE),
                    learning_rate=logs["learning_rate"],
                    gradient_norm=logs.get("grad_norm"),
                    tokens=tokens,
                    seconds=seconds / max(len(steps), 1),
                    memory=peak_memory(),
                )
            )
        self._reported_step = step
        self._since = self._save_since = time.perf_counter()
        return control

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        if state.is_world_process_zero:
            found = kwargs["metrics"]
            self._reporter.send(
                ValidationEvent(step=state.global_step, loss=found[VALIDATION_LOSS], metrics=validation_metrics(found))
            )
        self._since = self._save_since = time.perf_counter()
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Every rank sends an event, because each rank saves its own files."""
        step = state.global_step
        self._reporter.send(
            CheckpointEvent(
                step=step,
                directory=str(Path(str(args.output_dir)) / f"checkpoint-{step}"),
                seconds=time.perf_counter() - self._save_since,
                provenance=self._provenance(step),
                keep_also=self._best_step(state),
            )
        )
        self._since = time.perf_counter()
        return control


def _check_finite(logs: dict[str, float], step: int) -> None:
    norm = logs.get("grad_norm", 0.0)
    if not math.isfinite(logs["loss"]):
        what = f"the loss became {logs['loss']}"
    elif not math.isfinite(norm):
        what = f"the gradient norm became {norm}"
    else:
        return
    raise StageFailure(
        Reason.DIVERGED,
        f"{what} in step {step}, at learning rate {logs['learning_rate']:.3g}: lower training.learningRate, raise "
        "training.warmupSteps, or check the data for invalid rows",
    )


def peak_memory() -> int:
    """Peak memory of this process in bytes: GPU memory if there is a GPU, otherwise resident memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
