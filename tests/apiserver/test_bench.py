"""``python -m bench.operator`` measures, and leaves no process behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.apiserver.control_plane import clean_environment, wait_until

ROOT = Path(__file__).parents[2]
SMALL = ("--only", "burst", "--jobs", "5", "--rounds", "1")


def test_a_small_burst_and_its_floor():
    command = [sys.executable, "-m", "bench.operator", *SMALL]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=400)

    figures = {figure["name"]: figure for figure in map(json.loads, run.stdout.splitlines())}
    assert figures["burst_share_of_floor"]["value"] > 0
    assert figures["settled_share_of_floor"]["value"] <= figures["burst_share_of_floor"]["value"]
    assert figures["operator_requests_per_job"]["by"]["POST jobs"] == 1
    assert set(figures["cpu_ms_per_job"]["by"]) <= {"operator", "kube-apiserver", "etcd", "client"}
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_all_that_it_started(number: signal.Signals, tmp_path: Path):
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        command = [sys.executable, "-m", "bench.operator", "--only", "burst", "--jobs", "5", "--rounds", "50"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=stderr, stderr=stderr, env=clean_environment())
    bench, started = psutil.Process(process.pid), []

    def runs_operator() -> bool:
        assert process.poll() is None, log.read_text()
        started[:] = bench.children(recursive=True)
        return any("finetune_operator" in _command(child) for child in started)

    try:
        wait_until(runs_operator, "the operator runs", 300)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
        assert "Traceback" not in log.read_text()
    finally:
        for each in (*started, process):
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        # It has just ended.
        return []
