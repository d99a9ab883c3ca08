"""Runs stages as processes with tiny real models."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.stage import Progress, Stage, StageReport
from tests.ports import free_port
from tests.trainer.forks.client import ForkedProcess, fork_server
from tests.trainer.tiny_models import LABELS, make_texts, save_bert, save_llama

TIMEOUT_SECONDS = 900
SPEC_DIGEST = "sha256:" + "d" * 64


@dataclass(frozen=True)
class Outcome:
    """The outcome of a stage process."""

    code: int
    report: StageReport
    log: str

    @property
    def message(self) -> str:
        assert self.report.error, self.log
        return self.report.error.message


@dataclass
class TinyJob:
    """A job with a tiny model and prepared data; each name has a separate directory in storage."""

    root: Path
    spec: dict[str, Any]
    name: str = "tiny"

    def named(self, name: str, **changes: Any) -> TinyJob:
        """The same job with another name, changes to its spec, and a copy of the prepared data."""
        job = TinyJob(self.root, merged(self.spec, changes), name)
        job.revision.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.revision / "prepared", job.revision / "prepared")
        return job

    def changed(self, **changes: Any) -> TinyJob:
        """The same job and storage with changes to its spec."""
        return TinyJob(self.root, merged(self.spec, changes), self.name)

    @property
    def revision(self) -> Path:
        return self.root / "storage" / "team-a" / self.name / "r1"

    @property
    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path.parent for path in (self.revision / "checkpoints").glob("step-*/manifest.json"))

    @property
    def steps_stored(self) -> list[int]:
        """The steps of complete checkpoints, oldest first."""
        return [int(path.name.removeprefix("step-")) for path in self.checkpoints]

    @property
    def artifact(self) -> Path:
        """The published artifact."""
        return self.revision / "artifact"

    @property
    def evaluation(self) -> dict[str, Any]:
        """``evaluation.json`` of the evaluate stage."""
        document: dict[str, Any] = json.loads((self.revision / "evaluated" / "evaluation.json").read_text())
        return document

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """The rows of ``predictions.jsonl``."""
        lines = (self.revision / "evaluated" / "predictions.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def usage(self) -> str:
        """The program on the model card."""
        return (self.artifact / "README.md").read_text().split("```python\n")[1].split("```")[0]

    def history(self) -> list[dict[str, Any]]:
        """The training curve of the finished job."""
        curve: list[dict[str, Any]] = json.loads((self.revision / "trained" / "history.json").read_text())["train"]
        return curve

    def losses(self) -> list[float]:
        return [point["loss"] for point in self.history()]

    def config(self, stage: Stage, attempt: int = 1, processes: int = 1, **overrides: Any) -> dict[str, Any]:
        directory = self.root / "runs" / f"{self.name}-{stage}-{attempt}"
        directory.mkdir(parents=True, exist_ok=True)
        return {
            "job": {
                "namespace": "team-a",
                "name": self.name,
                "uid": "uid-1",
                "revision": 1,
                "specDigest": SPEC_DIGEST,
                "trainingRevision": 1,
                "trainingDigest": SPEC_DIGEST,
            },
            "stage": stage,
            "attempt": attempt,
            "codeExecution": {},
            "spec": self.spec | {"distributed": {**self.spec.get("distributed", {}), "workers": processes}},
            "world": {"workers": 1, "processesPerWorker": processes, "device": "cpu"},
            "workspace": str(directory / "workspace"),
            "terminationMessagePath": str(directory / "termination.json"),
            "port": free_port(),
            "mainPort": free_port(),
            "listen": "127.0.0.1",
            **overrides,
        }

    def run(self, stage: Stage, forked: bool = True, **settings: Any) -> Outcome:
        """Run a stage to its end."""
        with self.start(stage, forked, **settings) as running:
            return running.wait()

    @contextmanager
    def start(self, stage: Stage, forked: bool = True, **settings: Any) -> Iterator[Running]:
        """Start a stage; its remaining processes are killed at the end.

        On CPUs it is forked from a process that has imported its libraries, unless a test is about the start itself.
        """
        config = self.config(stage, **settings)
        directory = Path(config["terminationMessagePath"]).parent
        path = directory / "stage.json"
        path.write_text(json.dumps(config))
        with (directory / "log").open("wb") as log:
            arguments = [stage, "--config", str(path)]
            process: subprocess.Popen[bytes] | ForkedProcess
            if forked and config["world"]["device"] == "cpu":
                process = fork_server().start(arguments, os.environ, log.fileno())
            else:
                command = [sys.executable, "-m", "finetune_trainer", *arguments]
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield Running(process, config, directory)
        finally:
            process.kill()
            process.wait()


@dataclass
class Running:
    """A running stage."""

    process: subprocess.Popen[bytes] | ForkedProcess
    config: dict[str, Any]
    directory: Path

    def wait(self) -> Outcome:
        code = self.process.wait(TIMEOUT_SECONDS)
        log = (self.directory / "log").read_text(errors="replace")
        termination = Path(self.config["terminationMessagePath"])
        return Outcome(code, StageReport.model_validate_json(termination.read_bytes()), log)

    def progress(self) -> Progress | None:
        """The response of /progress; None before the server has started."""
        try:
            return Progress.model_validate_json(self._get("/progress"))
        except OSError:
            return None

    def metrics(self) -> str:
        return self._get("/metrics").decode()

    def wait_for_step(self, step: int) -> None:
        """Wait until that many optimizer steps are done."""
        self.wait_until(lambda: (progress := self.progress()) is not None and _steps(progress) >= step)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            log = (self.directory / "log").read_text(errors="replace")
            assert self.process.poll() is None, f"the stage ended early:\n{log}"
            assert time.monotonic() < deadline, f"waited in vain:\n{log}"
            time.sleep(0.02)

    def worker_pids(self) -> list[int]:
        """Process ids of the ranks, in order."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(int(child) for child in children)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.config['port']}{path}", timeout=5) as answer:
            body: bytes = answer.read()
        return body


def _steps(progress: Progress) -> int:
    return progress.done or 0 if progress.activity == "training" else 0


def merged(spec: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``spec`` with parts of its sections replaced, two levels deep."""
    result = copy.deepcopy(spec)
    for section, value in changes.items():
        result[section] = {**result.get(section, {}), **value}
    return result


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows as JSONL; returns the file's address."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.as_uri()


def classification_job(root: Path, examples: int = 240) -> TinyJob:
    """A job with a tiny BERT and sentences with one key word; not prepared."""
    save_bert(root / "base")
    rows = [{"text": text, "label": LABELS[label]} for text, label in make_texts(examples, 1)]
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": {"type": "TextClassification"},
            "dataset": {"train": {"uri": write_jsonl(root / "train.jsonl", rows)}},
            "training": {"maxSteps": 12, "batchSize": 16, "learningRate": 5e-3, "checkpoint": {"everySteps": 4}},
            "evaluation": {"publishWorse": True},
            "distributed": {"gpusPerWorker": 0, "zero": {"stage": 2}},
            "output": {"uri": (root / "storage").as_uri()},
        },
    )


def instruction_job(root: Path, examples: int = 240) -> TinyJob:
    """A job with a tiny Llama and short conversations; not prepared."""
    save_llama(root / "base")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"what is it {text}"},
                {"role": "assistant", "content": f"it is {LABELS[label]}"},
            ]
        }
        for text, label in make_texts(examples, 1)
    ]
    return TinyJob(
        root,
        {
            "model": {"uri": (root / "base").as_uri()},
            "task": {"type": "InstructionTuning"},
            "dataset": {"train": {"uri": write_jsonl(root / "train.jsonl", rows)}},
            "training": {"maxSteps": 12, "batchSize": 4, "learningRate": 5e-3, "checkpoint": {"everySteps": 4}},
            "evaluation": {"generation": {"maxNewTokens": 8}, "publishWorse": True},
            "distributed": {"gpusPerWorker": 0, "zero": {"stage": 2}},
            "output": {"uri": (root / "storage").as_uri()},
        },
    )
