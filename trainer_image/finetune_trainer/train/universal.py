"""Makes a DeepSpeed checkpoint independent of the number of processes that wrote it: Universal Checkpointing.

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
_WATCH_SECONDS = 2.0

OnProgress = Callable[[int, int], None]


def convert(directory: Path, on_progress: OnProgress) -> None:
    """Convert the ZeRO state in ``directory``, a checkpoint of any number of processes, in place.

    The converted state replaces the original. In this process alone, so the memory that it needs is that of one
    process's optimizer state; on disk there are for a while three copies of it.

    Args:
        directory: A checkpoint that Trainer has saved with DeepSpeed; private to the caller.
        on_progress: Told of the bytes written so far and in all, every few seconds in which there were more.

    Raises:
        ValueError: The state has a form that DeepSpeed cannot convert.
        OSError, RuntimeError: Reading or writing failed.
    """
    tag = (directory / "latest").read_text().strip()
    source, target = directory / tag, directory / f"{tag}_universal"
    shutil.rmtree(target, ignore_errors=True)
    (directory / LATEST_NAME).unlink(missing_ok=True)
    # Every byte of optimizer state is written twice: as fragments, and put together.
    total = 2 * sum(path.stat().st_size for path in source.glob("*_optim_states.pt"))
    with _watched(target, total, on_progress), _silence():
        _run_converter(source, target)
    _slim(target / _STATE_NAME)
    shutil.rmtree(source)


def _run_converter(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    options = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # Only models that are cut by tensor parallelism have something to say there.
        inject_missing_state=True,
    )
    try:
        ds_to_universal.main(options)
    except (AssertionError, KeyError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _slim(path: Path) -> None:
    """Leave out of the common state what belongs to one process.

    Of ZeRO-3 the converter copies all state of process 0, which every process would load.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    state.pop("fp32_flat_groups", None)
    if _NESTED in state:
        first = next(iter(state[_NESTED]["state"].values()))
        state[_NESTED] = {"state": {0: {"step": first["step"]}}, "param_groups": state["param_groups"]}
    torch.save(state, path)


def mend_loaded_state(optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Put right what DeepSpeed's loader gets wrong of a converted checkpoint.

    For ZeRO-3 it gives all parameter groups the settings of the first, weight decay to norms and biases too, and one
    tensor to all as their step, which the optimizer then counts up once a group. For every stage it leaves the step on
    the CPU, where the fused optimizer of a GPU does not look for it.

    Args:
        optimizer: The optimizer below DeepSpeed's.
        directory: The checkpoint that was loaded.
    """
    tag = (directory / LATEST_NAME).read_text().strip()
    saved = torch.load(directory / tag / _STATE_NAME, map_location="cpu", weights_only=False)["param_groups"]
    for group, settings in zip(optimizer.param_groups, saved, strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})
    for parameter, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(parameter.device, copy=True)


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
