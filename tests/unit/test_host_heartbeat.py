"""The heartbeat of a stage, and the readiness probe that reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import finetune_trainer
from finetune_trainer.host.heartbeat import age, beat
from finetune_trainer.host.monitor import StageMonitor
from tests.unit.test_resources_job import a_stage_run, container_of, made


def probe(file: Path, seconds: int) -> int:
    """The exit code of the probe of a pod whose stall timeout is ``seconds`` and whose heartbeat is ``file``."""
    job = made(resilience={"stallTimeoutSeconds": seconds})
    command = container_of(job)["readinessProbe"]["exec"]["command"]
    command = [sys.executable, *(part.replace("/workspace/heartbeat", str(file)) for part in command[1:])]
    environment = {**os.environ, "PYTHONPATH": str(Path(finetune_trainer.__file__).parents[1])}
    return subprocess.run(command, env=environment, check=False).returncode


class TestProbe:
    def test_fails_before_the_first_heartbeat(self, tmp_path: Path) -> None:
        assert probe(tmp_path / "heartbeat", 900) == 1

    @pytest.mark.parametrize(("seconds", "code"), [(1000, 0), (800, 1)])
    def test_fails_when_the_heartbeat_is_too_old(self, tmp_path: Path, seconds: int, code: int) -> None:
        file = tmp_path / "heartbeat"
        beat(file)
        before = time.time() - 900
        os.utime(file, (before, before))
        assert probe(file, seconds) == code


def test_each_report_of_progress_is_a_heartbeat(tmp_path: Path) -> None:
    monitor = StageMonitor(a_stage_run().config(workspace=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
    monitor.update(activity="training")
    (file,) = tmp_path.iterdir()
    assert (file.name, age(file) < 600) == ("heartbeat", True)


def test_a_missing_workspace_is_no_error(tmp_path: Path) -> None:
    beat(tmp_path / "missing" / "heartbeat")
