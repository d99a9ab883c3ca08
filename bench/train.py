"""Training speed of `finetune run` compared with plain scripts, in pairs. Prints one JSON line for each figure.

- ``train.classification``: our train stage against a `torchrun` script with Hugging Face's Trainer
  (`plain_trainer.py`): same encoder, data, LoRA, ZeRO-2, batch size and length grouping, two processes on CPU.
- ``train.packing``: our train stage with packing against TRL's SFTTrainer with padding (`plain_sft.py`), on chat data
  of varying length with the small causal model. It also reports the validation loss after the same tokens.

The speed is in real tokens per second. It excludes padding, start-up, validation, checkpoints and the first steps.
Run with `make bench` or `python -m bench.train [--pairs 3]`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ports import free_port

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PROCESSES = 2
WARM_UP_STEPS = 5
STEPS = 45

CLASSIFICATION: dict[str, Any] = {
    "model": {"uri": (EXAMPLES / "models/minilm").as_uri()},
    "task": {"type": "TextClassification"},
    "dataset": {
        "train": {"uri": (EXAMPLES / "data/docstrings/train.jsonl").as_uri()},
        "columns": {"label": "topic"},
    },
    "training": {
        "maxSteps": STEPS,
        "batchSize": 32,
        "maxBatchSizePerDevice": 16,
        "maxSequenceLength": 96,
        "learningRate": 1e-3,
        "evaluateEverySteps": 1000,
    },
}
CHAT: dict[str, Any] = {
    "model": {"uri": (EXAMPLES / "models/small-causal").as_uri()},
    "task": {"type": "InstructionTuning"},
    "dataset": {"train": {"uri": (EXAMPLES / "data/chat/train.jsonl").as_uri()}},
    "training": {
        "maxSequenceLength": 512,
        "maxBatchSizePerDevice": 4,
        "learningRate": 1e-3,
        "evaluateEverySteps": 1000,
    },
}
CHAT_ROWS = 4
CHAT_CONVERSATIONS = {"conversations": 32, "conversationsPerDevice": 8}
"""The batch of a TRL step, which then has about as many tokens as the packed rows of our step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", choices=("classification", "packing"))
    arguments = parser.parse_args()
    pairs, only = arguments.pairs, arguments.only
    for example in ("docstrings", "chat"):
        subprocess.run(
            [sys.executable, str(EXAMPLES / "make_inputs.py"), example], check=True, stdout=subprocess.DEVNULL
        )
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if only != "packing":
            ours = Job(root / "classification", CLASSIFICATION)
            compare("train.classification", ours.train, lambda: plain("plain_trainer.py", ours), pairs)
        if only != "classification":
            chat = Job(root / "chat", CHAT | {"training": CHAT["training"] | {"batchSize": CHAT_ROWS, "epochs": 1}})
            compare("train.packing", chat.train, lambda: plain("plain_sft.py", chat, **CHAT_CONVERSATIONS), pairs)


def compare(name: str, ours: Callable[[], dict[str, float]], other: Callable[[], dict[str, float]], pairs: int) -> None:
    """Run both sides in alternation and print the medians and the ratio of each pair."""
    results = [(ours(), other()) for _ in range(pairs)]
    ratios = [mine["tokensPerSecond"] / theirs["tokensPerSecond"] for mine, theirs in results]
    for side, index in (("ours", 0), ("plain", 1)):
        speed = statistics.median(result[index]["tokensPerSecond"] for result in results)
        report(f"{name}.{side}", speed, "tokens/s")
        loss = statistics.median(result[index]["validationLoss"] for result in results)
        report(f"{name}.{side}.validation_loss", loss, "nats/token", tokens=results[0][index]["tokens"])
    report(f"{name}.ratio", statistics.median(ratios), "ours/plain", minimum=min(ratios), maximum=max(ratios))


def report(name: str, value: float, unit: str, digits: int = 4, **more: Any) -> None:
    print(json.dumps({"name": name, "value": round(value, digits), "unit": unit, **more}), flush=True)


class Job:
    """A job whose data is prepared once and that can be trained several times."""

    def __init__(
        self, root: Path, spec: dict[str, Any], zero: int = 2, device: str = "cpu", processes: int = PROCESSES
    ) -> None:
        self.root = root
        self.device = device
        self.processes = processes
        gpus = processes if device == "gpu" else 0
        self.spec = spec | {
            "distributed": {"workers": 1 if gpus else processes, "gpusPerWorker": gpus, "zero": {"stage": zero}},
            "output": {"uri": (root / "storage").as_uri()},
        }
        self._runs = 0
        self.revision = self._revision("run0")
        """The directory of the latest run in storage."""
        self.stage("prepare", "run0")
        self.prepared = self.revision / "prepared"

    def train(self, port: int | None = None) -> dict[str, float]:
        """Train once from scratch, with /metrics on ``port``."""
        self._runs += 1
        name = f"run{self._runs}"
        self.revision = self._revision(name)
        self.revision.mkdir(parents=True)
        (self.revision / "prepared").symlink_to(self.prepared)
        self.stage("train", name, port)
        history = json.loads((self.revision / "trained/history.json").read_text())
        steps = history["train"][WARM_UP_STEPS:]
        seconds = sum(step["tokens"] / step["tokensPerSecond"] for step in steps)
        return {
            "tokensPerSecond": sum(step["tokens"] for step in steps) / seconds,
            "tokens": sum(step["tokens"] for step in history["train"]),
            "validationLoss": history["validation"][-1]["loss"],
        }

    def _revision(self, name: str) -> Path:
        return self.root / "storage/bench" / name / "r1"

    def stage(self, stage: str, name: str, port: int | None = None) -> None:
        """Run one stage of the run ``name``."""
        directory = self.root / "runs" / f"{name}-{stage}"
        directory.mkdir(parents=True)
        config = {
            "job": {
                "namespace": "bench",
                "name": name,
                "uid": "bench",
                "revision": 1,
                "specDigest": "sha256:bench",
                "trainingRevision": 1,
                "trainingDigest": "sha256:bench",
            },
            "stage": stage,
            "attempt": 1,
            "spec": self.spec,
            "world": {
                "workers": 1,
                "processesPerWorker": self.processes if stage == "train" else 1,
                "device": self.device,
            },
            "workspace": str(directory / "workspace"),
            "terminationMessagePath": str(directory / "termination.json"),
            "port": port or free_port(),
            "mainPort": free_port(),
            "listen": "127.0.0.1",
        }
        path = directory / "stage.json"
        path.write_text(json.dumps(config))
        run([sys.executable, "-m", "finetune_trainer", stage, "--config", str(path)], self.device)


def plain(script: str, job: Job, **more: Any) -> dict[str, float]:
    """Run a plain training script under torchrun on the same files. The last line that it prints is its result."""
    settings = {
        "model": job.spec["model"]["uri"].removeprefix("file://"),
        "data": job.spec["dataset"]["train"]["uri"].removeprefix("file://"),
        "prepared": str(job.prepared),
        "training": job.spec["training"],
        "warmUpSteps": WARM_UP_STEPS,
        "device": job.device,
        "output": str(job.root / "plain"),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.processes}"]
    output = run([*launcher, str(ROOT / "bench" / script), json.dumps(settings | more)], job.device)
    result: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return result


def run(command: list[str], device: str) -> str:
    """Run a command in the environment that both sides share, and return its standard output."""
    of_device = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    environment = os.environ | {
        **of_device,
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:6])} … failed:\n{done.stderr[-4000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
