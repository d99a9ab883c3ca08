"""SIGTERM while there is no state to save: a stage stops at once and can run again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import Stage
from tests.apiserver.control_plane import wait_until
from tests.trainer.stages import Running, TinyJob

SOON_SECONDS = 30
"""Much shorter than the grace period of a pod and the timeouts for DNS and other ranks."""
GANG = {"world": {"workers": 2, "processesPerWorker": 1, "device": "cpu"}, "attempt": 3}


@pytest.fixture(scope="module")
def trained(classification: TinyJob) -> TinyJob:
    job = classification.named("whole", training={"maxSteps": 4})
    assert job.run(Stage.TRAIN).code == 0
    return job


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EVALUATE, Stage.PUBLISH])
def test_sigterm_stops_the_stage_and_it_can_run_again(trained: TinyJob, stage: Stage) -> None:
    job = TinyJob(trained.root, trained.spec, "stopped-prepare") if stage is Stage.PREPARE else trained
    # A stage that need not import anything could be done by then.
    with job.start(stage, forked=False) as running:
        running.wait_until(lambda: running.progress() is not None)
        running.process.send_signal(signal.SIGTERM)
        stopped = running.wait()
    assert stopped.code == ExitCode.STOPPED, stopped.log
    assert stopped.report.error is not None
    assert stopped.report.error.reason is Reason.STOPPED
    assert stopped.message == "stopped on request, and starts over when the job resumes"
    again = job.run(stage, attempt=2)
    assert again.code == 0, again.log


def test_sigterm_is_handled_before_the_stage_starts(tmp_path: Path) -> None:
    """The kernel does not deliver signals without a handler to the first process of a container."""
    config = tmp_path / "stage.json"
    os.mkfifo(config)
    rights = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    stage = (sys.executable, "-m", "finetune_trainer", "prepare", "--config", str(config))
    container = subprocess.Popen(["unshare", *rights, "--pid", "--fork", "--kill-child", *stage])
    try:
        writer = wait_until(lambda: opened(config), "it reads how it is to be carried out", SOON_SECONDS, 0.02)
        (first,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert container.wait(SOON_SECONDS) == 128 + signal.SIGTERM
        os.close(writer)
    finally:
        container.kill()
        container.wait()


def opened(fifo: Path) -> int:
    """A descriptor to write to the FIFO once it has a reader; 0 before."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def assert_stops_soon(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(SOON_SECONDS)
    stopped = running.wait()
    assert (stopped.code, stopped.message) == (ExitCode.STOPPED, "stopped on request, before the first step")


def test_a_worker_that_waits_for_other_ranks_stops_at_once(classification: TinyJob) -> None:
    """The main thread is blocked in a library, so that a Python signal handler cannot run."""
    job = classification.named("alone")
    with job.start(Stage.TRAIN, **GANG) as running:
        running.wait_until(lambda: is_open(running.config["mainPort"]))
        assert_stops_soon(running)


def test_a_worker_that_waits_for_dns_stops_at_once(classification: TinyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    job = classification.named("lost")
    with job.start(Stage.TRAIN, **GANG, mainAddress="worker-0.gang.invalid") as running:
        running.wait_until(lambda: "waiting for the address" in str(running.progress()))
        assert_stops_soon(running)


def is_open(port: int) -> bool:
    """Whether rank 0 listens on the port, where it waits for the other ranks."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
