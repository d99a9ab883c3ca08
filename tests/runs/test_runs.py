"""The test tooling: hanging tests, interrupted runs, missing requirements and the coverage summary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests import covered, preflight

ROOT = Path(__file__).parents[2]
SECONDS = 120
HANGS = """
import subprocess, time
pytest_plugins = ["tests.hanging"]
def test_that_waits_for_its_stage(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        script = "echo loading shard 3 >&2; exec sleep 1000"
        stage = subprocess.Popen(["sh", "-c", script], stderr=log, start_new_session=True)
    print("stage", stage.pid)
    stage.wait()
"""
STUCK = """
import ctypes, subprocess, sys
def test_that_no_signal_reaches():
    stage = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    with open("stage", "w") as file:
        file.write(str(stage.pid))
    ctypes.PyDLL(None).pause()  # While it holds the GIL.
"""
IGNORES_SIGTERM = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('started', flush=True); time.sleep(1000)"
)


@contextmanager
def supervised(*command: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command under ``tests.supervised``, and kill all its processes at the end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "PYTEST"))}
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.supervised", *command],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield run
    finally:
        left = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
        for process in (*left, run):
            process.kill()
        run.communicate()


def run_pytest(folder: Path, code: str, *options: str) -> tuple[int, str]:
    """Run a test file in an xdist process, as all tests run, and return exit code and output."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(code)
    command = (sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", *options)
    with supervised(*command, cwd=folder) as run:
        output, _ = run.communicate(timeout=SECONDS)
        return run.returncode, output


def test_the_report_of_a_hanging_test_lists_its_running_processes_and_their_logs(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, HANGS, "--timeout", "2")
    stage = next(int(line.split()[1]) for line in output.splitlines() if line.startswith("stage "))
    assert code != 0
    assert "FAILED test_it.py::test_that_waits_for_its_stage - Failed: Timeout" in output
    running = output.partition("processes that were still running")[2]
    assert f"{stage}, " in running
    assert "| loading shard 3" in running
    assert f"Left behind: {stage}, " in output
    assert not psutil.pid_exists(stage)


def test_a_test_that_blocks_signal_handlers_is_named_and_killed(tmp_path: Path) -> None:
    exits = ("-o", "faulthandler_timeout=2", "-o", "faulthandler_exit_on_timeout=true", "--max-worker-restart", "0")
    code, output = run_pytest(tmp_path, STUCK, *exits)
    assert code != 0
    assert "crashed while running 'test_it.py::test_that_no_signal_reaches'" in output
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int((tmp_path / "stage").read_text())).wait(SECONDS)


@pytest.mark.parametrize(
    ("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)], ids=str
)
def test_an_interrupted_run_leaves_no_process(tmp_path: Path, number: signal.Signals, to_all: bool) -> None:
    # A process in its own session, whose parent has ended, and which ignores SIGTERM.
    script = f'setsid {sys.executable} -c "{IGNORES_SIGTERM}" > started & sleep 1000'
    with supervised("sh", "-c", script, cwd=tmp_path) as run:
        deadline = time.monotonic() + SECONDS
        while not ((tmp_path / "started").exists() and (tmp_path / "started").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started = psutil.Process(run.pid).children(recursive=True)
        assert len(started) == 3
        (os.killpg if to_all else os.kill)(run.pid, number)
        run.communicate(timeout=SECONDS)
        assert run.returncode == 128 + number
        assert not [process for process in started if process.is_running()]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("sleep 1000 & exit 0", 1)]
)
def test_the_exit_code_is_that_of_the_command_unless_a_process_is_left(tmp_path: Path, script: str, code: int) -> None:
    with supervised("sh", "-c", script, cwd=tmp_path) as run:
        output, _ = run.communicate(timeout=SECONDS)
        assert run.returncode == code
        assert ("Left behind: " in output and "sleep 1000" in output) is (code == 1)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, "which Go builds: install Go 1.21 or newer"),
        ("echo go version go1.19.8 linux/amd64", "go1.19 is too old, install Go 1.21 or newer"),
        ("echo it is broken >&2; exit 2", "but `go version` fails: it is broken"),
    ],
)
def test_preflight_reports_a_missing_or_outdated_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, sentence: str
) -> None:
    if script:
        (tmp_path / "go").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sentence in str(preflight.obstacle(tmp_path, [], tmp_path))


def test_preflight_reports_an_outdated_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.sys, "version_info", (3, 10, 1))
    assert "needs Python 3.11 or newer, but this is 3.10: " in str(preflight.obstacle(tmp_path, [], tmp_path))


def test_preflight_reports_a_disk_with_too_little_space_for_all_folders(tmp_path: Path) -> None:
    free = psutil.disk_usage(str(tmp_path)).free // 2**30
    assert preflight.shortage([(tmp_path / "not" / "there", free // 2)]) is None
    output = str(preflight.shortage([(tmp_path / "a", free // 2 + 2), (tmp_path / "b", free // 2 + 2)]))
    assert f"free on the disk of {tmp_path}, but the tests need {free // 2 * 2 + 4}: free some space." in output


def test_the_coverage_summary_lists_packages_and_files_with_low_coverage() -> None:
    counts = {"operator/a/x.py": (9, 10), "operator/a/y.py": (1, 2), "trainer_image/b/c/z.py": (3, 3)}
    _, *packages, few = covered.table(counts)
    shares = [line.rpartition("%")[0].split() for line in packages]
    assert shares == [["a", "83.3"], ["b/c", "100.0"], ["all", "together", "86.7"]]
    assert few == "  less than 90 %: operator/a/y.py, 1 of 2 lines did not run"
