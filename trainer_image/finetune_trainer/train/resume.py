"""What has to happen to a checkpoint before the processes of this run can load it, and after they have."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import StageConfig
from finetune_trainer.context import Reporter
from finetune_trainer.inputs import CheckpointInput
from finetune_trainer.train.universal import convert, mend_loaded_state

_READY_NAME = "converted"
"""File in a checkpoint on local disk: its conversion is done."""
_POLL_SECONDS = 0.1
_MIB = 1 << 20


@dataclass(frozen=True)
class LoadableCheckpoint:
    """A checkpoint that this run's processes can load."""

    directory: Path
    universal: bool
    """Whether DeepSpeed has to be told that it is a universal one."""


def make_loadable(checkpoint: CheckpointInput, config: StageConfig, reporter: Reporter) -> LoadableCheckpoint:
    """Convert the checkpoint if ZeRO has cut its state for other processes, or at another stage, than this run's.

    All ranks call it; the first of each pod converts, the others wait. Should it fail, the host ends those that wait.
    Stage 0 cuts nothing: any number of processes loads its checkpoints as they are.

    Raises:
        StageFailure: BadConfiguration when DeepSpeed cannot convert it.
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
            f"the checkpoint {checkpoint.ref.uri} was written by {checkpoint.processes} processes at ZeRO stage "
            f"{checkpoint.zero_stage} and cannot be converted to {processes} at stage {stage} ({error}): run it as it "
            "was written, or remove it to train from the start",
        ) from error


class MendConverted(TrainerCallback):
    """Mends what was loaded from a converted checkpoint, before the first step."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        # Accelerate's wrapper holds DeepSpeed's optimizer, which holds the one that steps.
        mend_loaded_state(kwargs["optimizer"].optimizer.optimizer, self._directory)
        return control
