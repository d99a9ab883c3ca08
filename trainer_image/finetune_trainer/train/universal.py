"""Makes a DeepSpeed checkpoint independent of the processes that wrote it: Universal Checkpointing.

ZeRO stores each process's slice of the flat optimizer state. DeepSpeed's converter puts the slices of every parameter
together again; with ``checkpoint.load_universal`` each process then takes what it needs. (Lian et al. 2024, "Universal
Checkpointing".)
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
"""File of a checkpoint that names its converted state."""
_STATE_NAME = "zero/optimizer_state.pt"
_NESTED = "optimizer_state_dict"
_SHARED_WEIGHTS = 3
"""The ZeRO stage that has loader and files of its own."""
_WATCH_SECONDS = 2.0

OnProgress = Callable[[int, int], None]


def convert(directory: Path, zero_stage: int, on_progress: OnProgress) -> None:
    """Convert the ZeRO state in ``directory``, of any number of processes and any stage from 1 to 3, in place.

    The converted state replaces the original. All is done in this process, one after the other: it needs the memory
    of the weights and of one process's optimizer state. On disk there are for a while three copies of all state.

    Args:
        directory: A checkpoint that Trainer has saved with DeepSpeed; private to the caller.
        zero_stage: The stage, 1 to 3, that is to load it.
        on_progress: Told of the bytes written so far and in all, every few seconds in which there were more.

    Raises:
        ValueError: The state has a form that DeepSpeed cannot convert.
        OSError, RuntimeError: Reading or writing failed.
    """
    # Now, as loggers that are made while the output is silenced would stay silent.
    from deepspeed.checkpoint import ds_to_universal

    tag = (directory / "latest").read_text().strip()
    source, target = directory / tag, directory / f"{tag}_universal"
    shutil.rmtree(target, ignore_errors=True)
    (directory / LATEST_NAME).unlink(missing_ok=True)
    # Every byte of optimizer state is written twice: as fragments, and put together.
    total = 2 * sum(path.stat().st_size for path in source.glob("*_optim_states.pt"))
    with _watched(target, total, on_progress), _silence():
        try:
            ds_to_universal.main(_converter_options(source, target))
        except (AssertionError, KeyError, IndexError, NotImplementedError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        _complete(target, zero_stage)
    shutil.rmtree(source)


def _converter_options(source: Path, target: Path) -> Namespace:
    return Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # Only models that are cut by tensor parallelism have something to say there.
        inject_missing_state=True,
    )


def _complete(target: Path, zero_stage: int) -> None:
    """Put the converter's result into the one form that the loaders of all ZeRO stages understand.

    The converter leaves out what the loader of its own stage does not ask for. Of stage 3 it also copies the state of
    process 0 whole, which every process would load.
    """
    import deepspeed

    path = target / _STATE_NAME
    state: dict[str, Any] = _load(path)
    parameters = [folder for folder in path.parent.iterdir() if folder.is_dir()]
    of_stage_3 = state.pop("fp32_flat_groups", None) is not None
    if of_stage_3:
        step = next(iter(state[_NESTED]["state"].values()))["step"]
        if zero_stage < _SHARED_WEIGHTS:
            for folder in parameters:
                _describe_parameter(folder, step)
    else:
        step = _load(next(path.parent.glob("*/step.pt")))
    state[_NESTED] = {"state": {0: {"step": step}}, "param_groups": state["param_groups"]}
    state.setdefault("ds_version", deepspeed.__version__)
    torch.save(state, path)
    wanted = target / ("zero_pp_rank_0_" * (zero_stage == _SHARED_WEIGHTS) + "mp_rank_00_model_states.pt")
    if not wanted.exists():
        # Counters and schedules: the weights are those below zero/.
        shutil.copy2(min(target.glob("*_model_states.pt")), wanted)


def _describe_parameter(folder: Path, step: Any) -> None:
    """Bring the files of one parameter from the form of ZeRO-3, bare tensors, into that of the other stages."""
    for path in folder.glob("*.pt"):
        torch.save({"param": _load(path), "cat_dim": 0}, path)
    torch.save(step, folder / "step.pt")


def _load(path: Path) -> Any:
    # Pickles with DeepSpeed's own classes; the checkpoint is of this very run.
    return torch.load(path, map_location="cpu", weights_only=False)


def mend_loaded_state(optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Put right what DeepSpeed's loader gets wrong of a converted checkpoint.

    For ZeRO-3 it gives all parameter groups the settings of the first, weight decay to norms and biases too, and one
    tensor to all as their step, which the optimizer then counts up once a group. For every stage it leaves the step on
    the CPU, where a fused optimizer does not look for it.

    Args:
        optimizer: The optimizer below DeepSpeed's.
        directory: The checkpoint that was loaded.
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
def _silence() -> Iterator[None]:
    """Without the converter's words and progress bars, which would fill the log."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def _watched(directory: Path, total: int, on_progress: OnProgress) -> Iterator[None]:
    """Tell of the bytes that come into ``directory`` meanwhile."""
    done = threading.Event()

    def watch() -> None:
        most = 0
        while not done.wait(_WATCH_SECONDS):
            written = _size(directory)
            if written > most:
                most = written
                on_progress(min(most, total), total)

    watcher = threading.Thread(target=watch, name="conversion", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _size(directory: Path) -> int:
    """Bytes of the files below ``directory`` at this moment; files may go meanwhile."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total
