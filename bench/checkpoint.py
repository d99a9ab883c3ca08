"""How long a checkpoint pauses training, compared with a plain copy of the same bytes on the same disk.

Prints one JSON line for each figure, for MiniLM with LoRA and with full fine-tuning (two processes on CPU, ZeRO-2):

- ``checkpoint.<method>.save``: the pause as the stage itself measures it, in
  ``finetune_checkpoint_seconds{phase="save"}``. The upload runs in parallel with training and is not included.
- ``checkpoint.<method>.copy``: `shutil.copytree` of a checkpoint of that run, from and to the same disk.
- ``checkpoint.<method>.ratio``: median save divided by median copy of a run; the figure is the median over runs.

Run with `make bench` or `python -m bench.checkpoint [--runs 3]`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench.train import CLASSIFICATION, EXAMPLES, Job, report
from tests.ports import free_port

STEPS, EVERY_STEPS = 24, 3
POLL_SECONDS = 0.02
COPIES = 7
TRAINING = CLASSIFICATION["training"] | {
    "maxSteps": STEPS,
    "batchSize": 8,
    "maxBatchSizePerDevice": 4,
    "checkpoint": {"everySteps": EVERY_STEPS, "keep": 1},
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": CLASSIFICATION | {"training": TRAINING},
    "full": CLASSIFICATION | {"method": {"type": "Full"}, "training": TRAINING | {"learningRate": 2e-5}},
}
_SAVES = re.compile(r'^finetune_checkpoint_seconds_(count|sum)\{[^}]*phase="save"[^}]*\} (\S+)$', re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    subprocess.run(
        [sys.executable, str(EXAMPLES / "make_inputs.py"), "docstrings"], check=True, stdout=subprocess.DEVNULL
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name, spec in METHODS.items():
            job = Job(Path(scratch) / name, spec)
            measure(f"checkpoint.{name}", job, runs)
            shutil.rmtree(job.root)


def measure(name: str, job: Job, runs: int) -> None:
    """Train ``runs`` times, copy a checkpoint after each training, and print the figures."""
    saves, copies = [], []
    for _ in range(runs):
        port = free_port()
        with SaveWatch(port) as watch:
            job.train(port)
        checkpoint = next((job.revision / "checkpoints").glob("step-*"))
        size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
        saves.append(statistics.median(watch.seconds))
        copies.append(statistics.median(copy_seconds(checkpoint) for _ in range(COPIES)))
    report(f"{name}.save", statistics.median(saves), "s", minimum=round(min(saves), 4), maximum=round(max(saves), 4))
    report(f"{name}.copy", statistics.median(copies), "s", bytes=size)
    ratios = [save / copy for save, copy in zip(saves, copies, strict=True)]
    report(f"{name}.ratio", statistics.median(ratios), "save/copy", minimum=min(ratios), maximum=max(ratios))


def copy_seconds(directory: Path) -> float:
    target = directory.with_name("copy")
    began = time.perf_counter()
    shutil.copytree(directory, target)
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return seconds


class SaveWatch:
    """Polls the /metrics of a running stage often enough to observe each save separately."""

    def __init__(self, port: int) -> None:
        self.seconds: list[float] = []
        self._address = f"http://127.0.0.1:{port}/metrics"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> SaveWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        count, total = 0.0, 0.0
        while not self._ended.wait(POLL_SECONDS):
            try:
                with urllib.request.urlopen(self._address, timeout=5) as answer:
                    found = dict(_SAVES.findall(answer.read().decode()))
            except OSError:
                continue  # The stage has not started or has ended.
            new = float(found.get("count", 0)) - count
            if new:
                self.seconds.append((float(found["sum"]) - total) / new)
                count, total = float(found["count"]), float(found["sum"])


if __name__ == "__main__":
    main()
