"""Convert a DeepSpeed checkpoint so that any world size can load it: Universal Checkpointing (Lian et al. 2024).

ZeRO saves one partition of the flat optimizer state per process. DeepSpeed's converter merges the partitions of each
parameter; with ``checkpoint.load_universal`` each process then loads its own partition of the merged state.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

LATEST_NAME = "latest_universal"
"""File in a checkpoint that contains the name of its converted state directory."""
_STATE_NAME = "zero/optimizer_state.pt"
_NESTED = "optimizer_state_dict"
_PARTITIONED_PARAMETERS = 3
"""The ZeRO stage that partitions the parameters, and has its own loader and file names."""
_WATCH_SECONDS = 2.0

OnProgress = Callable[[int, int], None]


def convert(directory: Path, zero_stage: int, on_progress: OnProgress) -> None:
    """Convert the ZeRO state in ``directory``, of any world size and ZeRO stage 1 to 3, in place.

    The conversion runs sequentially in this process. It needs memory for the weights and the optimizer state of one
    process, and temporarily disk space for three copies of the state.

    Args:
        directory: A checkpoint that Trainer has saved with DeepSpeed; no other process may use it.
        zero_stage: The ZeRO stage, 1 to 3, that will load it.
        on_progress: Called with the bytes written so far and in total, every few seconds while they increase.

    Raises:
        ValueError: DeepSpeed cannot convert this state.
        OSError, RuntimeError: Reading or writing failed.
    """
    # Imported before the output is redirected: loggers that are created during the redirection would stay silent.
    from deepspeed.checkpoint import ds_to_universal

    tag = (directory / "latest").read_text().strip()
    source, target = directory / tag, directory / f"{tag}_universal"
    shutil.rmtree(target, ignore_errors=True)
    (directory / LATEST_NAME).unlink(missing_ok=True)
    # Each byte of optimizer state is written twice: as fragments, and merged.
    total = 2 * sum(path.stat().st_size for path in source.glob("*_optim_states.pt"))
    with _reported(target, total, on_progress), _silenced():
        try:
            ds_to_universal.main(_converter_options(source, target))
        except (AssertionError, KeyError, IndexError, NotImplementedError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        _complete_state(target, zero_stage)
    shutil.rmtree(source)


def _converter_options(source: Path, target: Path) -> Namespace:
    return Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # This state is relevant for tensor parallelism only, which is not used.
        inject_missing_state=True,
    )


def _complete_state(target: Path, zero_stage: int) -> None:
    """Bring the converter's output into a format that the loaders of all ZeRO stages accept.

    The converter omits what the loader of the saving stage does not need. For stage 3 it also copies the entire state
    of rank 0, which every process would load.
    """
    import deepspeed

    path = target / _STATE_NAME
    state: dict[str, Any] = _load(path)
    parameters = [folder for folder in path.parent.iterdir() if folder.is_dir()]
    saved_by_stage_3 = state.pop("fp32_flat_groups", None) is not None
    if saved_by_stage_3:
        step = next(iter(state[_NESTED]["state"].values()))["step"]
        if zero_stage < _PARTITIONED_PARAMETERS:
            for folder in parameters:
                _describe_parameter(folder, step)
    else:
        step = _load(next(path.parent.glob("*/step.pt")))
    state[_NESTED] = {"state": {0: {"step": step}}, "param_groups": state["param_groups"]}
    state.setdefault("ds_version", deepspeed.__version__)
    torch.save(state, path)
    prefix = "zero_pp_rank_0_" if zero_stage == _PARTITIONED_PARAMETERS else ""
    model_states = target / f"{prefix}mp_rank_00_model_states.pt"
    if not model_states.exists():
        # Only its step counters and scheduler state are used; the weights are in zero/.
        shutil.copy2(min(target.glob("*_model_states.pt")), model_states)


def _describe_parameter(folder: Path, step: Any) -> None:
    """Convert the files of one parameter from the format of ZeRO-3, plain tensors, to that of the other stages."""
    for path in folder.glob("*.pt"):
        torch.save({"param": _load(path), "cat_dim": 0}, path)
    torch.save(step, folder / "step.pt")


def _load(path: Path) -> Any:
    # The files contain DeepSpeed's own classes. They are trusted, because this revision has written the checkpoint.
    return torch.load(path, map_location="cpu", weights_only=False)


def mend_loaded_state(optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Correct the optimizer state that DeepSpeed loads wrongly from a converted checkpoint.

    For ZeRO-3, DeepSpeed applies the settings of the first parameter group to all groups, such as weight decay to norms
    and biases. All groups also share one step tensor, which the optimizer increments once per group. For every stage,
    the step stays on the CPU, where a fused optimizer cannot use it.

    Args:
        optimizer: The optimizer that DeepSpeed's optimizer wraps.
        directory: The loaded checkpoint.
    """
    tag = (directory / LATEST_NAME).read_text().strip()
    saved = _load(directory / tag / _STATE_NAME)["param_groups"]
    for group, settings in zip(optimizer.param_groups, saved, strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for parameter, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(parameter.device if on_device else "cpu", copy=True)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the converter's output and progress bars, which would fill the log."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def _reported(directory: Path, total: int, on_progress: OnProgress) -> Iterator[None]:
    """Report the bytes that the block writes into ``directory``."""
    done = threading.Event()

    def watch() -> None:
        reported = 0
        while not done.wait(_WATCH_SECONDS):
            written = _size(directory)
            if written > reported:
                reported = written
                on_progress(min(written, total), total)

    watcher = threading.Thread(target=watch, name="conversion", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _size(directory: Path) -> int:
    """Current size in bytes of the files below ``directory``; files may be deleted concurrently."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total
