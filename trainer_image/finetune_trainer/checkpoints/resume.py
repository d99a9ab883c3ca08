"""Make a checkpoint loadable for this run: convert it if needed, and correct the loaded state."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import StageConfig
from finetune_trainer.checkpoints.universal import convert, mend_loaded_state
from finetune_trainer.context import Reporter
from finetune_trainer.host.inputs import CheckpointInput

_READY_NAME = "converted"
"""File in a local checkpoint that marks its conversion as complete."""
_POLL_SECONDS = 0.1
_MIB = 1 << 20


@dataclass(frozen=True)
class LoadableCheckpoint:
    """A local checkpoint that the processes of this run can load."""

    directory: Path
    universal: bool
    """Whether to set DeepSpeed's ``checkpoint.load_universal``."""


def make_loadable(checkpoint: CheckpointInput, config: StageConfig, reporter: Reporter) -> LoadableCheckpoint:
    """Convert the checkpoint if it was saved with a world size or ZeRO stage other than that of this run.

    All ranks call this function. The first rank of each pod converts, and the others wait; if the conversion fails, the
    host process terminates them. ZeRO stage 0 does not partition the state, so that any world size can load it.

    Args:
        checkpoint: The local checkpoint, with its world size and ZeRO stage.
        config: The configuration of the stage.
        reporter: Reports the progress of the conversion.

    Raises:
        StageFailure: BadConfiguration when DeepSpeed cannot convert the checkpoint.
    """
    directory = Path(checkpoint.directory)
    stage, processes = config.spec.distributed.zero.stage, config.world.size
    if stage == 0 or (stage, processes) == (checkpoint.zero_stage, checkpoint.processes):
        return LoadableCheckpoint(directory, universal=False)
    ready = directory / _READY_NAME
    if os.environ["LOCAL_RANK"] == "0":
        _convert(checkpoint, stage, processes, reporter)
        ready.touch()
    while not ready.exists():
        time.sleep(_POLL_SECONDS)
    return LoadableCheckpoint(directory, universal=True)


def _convert(checkpoint: CheckpointInput, stage: int, processes: int, reporter: Reporter) -> None:
    activity = f"converting the checkpoint to {processes} process{'es' if processes > 1 else ''}"
    if stage != checkpoint.zero_stage:
        activity += f" at ZeRO stage {stage}"
    reporter.progress(activity)
    try:
        convert(
            Path(checkpoint.directory),
            stage,
            lambda done, total: reporter.progress(activity, done=done // _MIB, total=total // _MIB, unit="MiB"),
        )
    except ValueError as error:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"the checkpoint {checkpoint.ref.uri} was saved by {checkpoint.processes} processes at ZeRO stage "
            f"{checkpoint.zero_stage} and cannot be converted to {processes} at stage {stage} ({error}): restore the "
            "previous number of processes and ZeRO stage, or delete the checkpoint to train from the start",
        ) from error


class MendConverted(TrainerCallback):
    """Callback that corrects the optimizer state of a converted checkpoint before the first step."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        # Accelerate's optimizer wraps DeepSpeed's, which wraps the torch optimizer.
        mend_loaded_state(kwargs["optimizer"].optimizer.optimizer, self._directory)
        return control
