"""Who does which tests of the cluster, seen in a run of pytest with two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFTEST = """
from tests.cluster.scheduling import OneFileAtATime

def pytest_xdist_make_scheduler(config, log):
    return OneFileAtATime(config, log)
"""
TEST = """
import os
from pathlib import Path

def test_{name}():
    Path({done!r}, {name!r}).write_text(os.environ["PYTEST_XDIST_WORKER"])
"""
LAST = """
import os, time
from pathlib import Path

def test_waits_for_all_others():
    done = Path({done!r})
    deadline = time.monotonic() + 30
    while len(list(done.iterdir())) < {others}:
        assert time.monotonic() < deadline, sorted(done.iterdir())
        time.sleep(0.05)
    (done / "last").write_text(os.environ["PYTEST_XDIST_WORKER"])
"""
OTHERS = 4


def test_the_last_of_the_serial_folder_keeps_no_file_waiting(tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.mkdir()
    serial = tmp_path / "tests" / "cluster" / "serial"
    serial.mkdir(parents=True)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("first", "second"):
        (serial / f"test_{name}.py").write_text(TEST.format(name=name, done=str(done)))
    (serial / "test_soak.py").write_text(LAST.format(done=str(done), others=OTHERS + 2))
    for number in range(OTHERS):
        (serial.parent / f"test_{number}.py").write_text(TEST.format(name=str(number), done=str(done)))
    arguments = (
        "-p",
        "xdist.plugin",
        "--numprocesses",
        "2",
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
        "-p",
        "no:cacheprovider",
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, f"--rootdir={tmp_path}", "tests/cluster/serial", "tests/cluster"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    by = {path.name: path.read_text() for path in done.iterdir()}
    assert len(by) == OTHERS + 3
    assert by["first"] == by["second"] == by["last"]
