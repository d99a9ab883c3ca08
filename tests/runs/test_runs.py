"""Tests that hang, runs that are interrupted and what lacks for a run: played in runs of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    ctypes.PyDLL(None).pause()  # With the interpreter's lock.
"""
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(1000)"


@contextmanager
def supervised(*command: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that is ended with all its processes, whatever a fault in what is tested may leave."""
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
    """Exit code and output of a test file in a process of xdist, as all tests run."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(code)
    command = (sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", *options)
    with supervised(*command, cwd=folder) as run:
        said, _ = run.communicate(timeout=SECONDS)
        return run.returncode, said


def test_a_test_that_hangs_is_named_with_what_still_ran_and_its_log(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path, HANGS, "--timeout", "2")
    stage = next(int(line.split()[1]) for line in said.splitlines() if line.startswith("stage "))
    assert code != 0
    assert "FAILED test_it.py::test_that_waits_for_its_stage - Failed: Timeout" in said
    still_ran = said.partition("processes that still ran")[2]
    assert f"{stage}, " in still_ran
    assert "| loading shard 3" in still_ran
    assert f"Left behind: {stage}, " in said
    assert not psutil.pid_exists(stage)


def test_a_test_that_no_signal_reaches_is_named_and_ended(tmp_path: Path) -> None:
    exits = ("-o", "faulthandler_timeout=2", "-o", "faulthandler_exit_on_timeout=true", "--max-worker-restart", "0")
    code, said = run_pytest(tmp_path, STUCK, *exits)
    assert code != 0
    assert "crashed while running 'test_it.py::test_that_no_signal_reaches'" in said
    assert not psutil.pid_exists(int((tmp_path / "stage").read_text()))


@pytest.mark.parametrize(
    ("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)], ids=str
)
def test_an_interrupted_run_leaves_no_process(tmp_path: Path, number: signal.Signals, to_all: bool) -> None:
    # One in a session of its own, whose parent has ended, deaf to what a stop says.
    script = f'setsid {sys.executable} -c "{DEAF}" > started & sleep 1000'
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
def test_the_exit_code_is_the_commands_unless_it_leaves_a_process(tmp_path: Path, script: str, code: int) -> None:
    with supervised("sh", "-c", script, cwd=tmp_path) as run:
        said, _ = run.communicate(timeout=SECONDS)
        assert run.returncode == code
        assert ("Left behind: " in said and "sleep 1000" in said) is (code == 1)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, "which Go builds: install Go 1.21 or newer"),
        ("echo go version go1.19.8 linux/amd64", "go1.19 is too old, install Go 1.21 or newer"),
        ("echo it is broken >&2; exit 2", "but `go version` fails: it is broken"),
    ],
)
def test_a_go_that_lacks_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, sentence: str
) -> None:
    if script:
        (tmp_path / "go").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sentence in str(preflight.obstacle(tmp_path, [], tmp_path))


def test_a_python_that_is_too_old_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.sys, "version_info", (3, 10, 1))
    assert "needs Python 3.11 or newer, and this is 3.10: " in str(preflight.obstacle(tmp_path, [], tmp_path))


def test_a_disk_that_is_too_full_for_all_together_is_told(tmp_path: Path) -> None:
    free = psutil.disk_usage(str(tmp_path)).free // 2**30
    assert preflight.shortage([(tmp_path / "not" / "there", free // 2)]) is None
    said = str(preflight.shortage([(tmp_path / "a", free // 2 + 2), (tmp_path / "b", free // 2 + 2)]))
    assert f"free on the disk of {tmp_path}, and the tests need {free // 2 * 2 + 4}: make room there." in said


def test_coverage_is_told_by_package() -> None:
    counts = {"operator/a/x.py": (9, 10), "operator/a/y.py": (1, 2), "trainer_image/b/c/z.py": (3, 3)}
    _, *packages, few = covered.table(counts)
    shares = [line.rpartition("%")[0].split() for line in packages]
    assert shares == [["a", "83.3"], ["b/c", "100.0"], ["all", "together", "86.7"]]
    assert few == "  less than 90 %: operator/a/y.py, 1 of 2 lines did not run"
