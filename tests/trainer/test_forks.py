"""Forked stages have the same processes as started ones, and leave none behind."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.failures import ExitCode
from finetune_api.stage import Stage
from tests.trainer.forks.client import fork_server
from tests.trainer.forks.environment import different, importing_environment
from tests.trainer.stages import TinyJob

ROOT = Path(__file__).parents[2]
ENDS_SECONDS = 60
TESTS_THAT_ARE_KILLED = """
import os, sys, time
from tests.trainer.forks.client import fork_server
server = fork_server()
host = server.start(["prepare", "--config", sys.argv[1]], os.environ, 2)
print(server.pid, host.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"RANK": "1"}, True),
        ({"HF_HUB_OFFLINE": "1"}, False),
        ({"DS_ACCELERATOR": "cuda"}, False),
        ({"OMP_NUM_THREADS": "2"}, False),
    ],
)
def test_only_processes_with_the_same_import_environment_are_forked(changes: dict[str, str], alike: bool) -> None:
    imported_under = importing_environment({"HOME": "/home/ada"})
    assert (different(imported_under | changes, imported_under) == []) is alike
    assert (different(imported_under, imported_under | changes) == []) is alike


def test_a_forked_rank_is_a_child_of_its_host_with_its_own_session_and_output(classification: TinyJob) -> None:
    job = classification.named("forked", training={"maxSteps": 2000, "checkpoint": {"everySteps": 2000}})
    with job.start(Stage.TRAIN, processes=2) as running:
        running.wait_for_step(1)
        pids = running.worker_pids()
        assert len(pids) == 2
        host = running.process.pid
        for pid in pids:
            assert os.getsid(pid) == pid != os.getsid(host)
            descriptors = opened(pid)
            assert descriptors["0"] == "/dev/null"
            assert descriptors["1"] == descriptors["2"] == str(running.directory / "log")
            assert not sockets(descriptors) & sockets(opened(host)), "it has what the host did not give it"


def opened(pid: int) -> dict[str, str]:
    """The open file descriptors of a process and their targets."""
    return {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def sockets(descriptors: dict[str, str]) -> set[str]:
    return {target for target in descriptors.values() if target.startswith("socket:")}


def test_an_invalid_configuration_is_reported_by_the_stage_itself(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        host = fork_server().start(["train", "--config", str(tmp_path / "none.json")], os.environ, log.fileno())
    assert host.wait(ENDS_SECONDS) == ExitCode.BAD_CONFIGURATION
    assert (tmp_path / "log").read_text() == (
        f"finetune_trainer: cannot read {tmp_path / 'none.json'}: No such file or directory\n"
    )


def test_server_and_stages_end_when_pytest_is_killed(tmp_path: Path) -> None:
    config = tmp_path / "stage.json"
    os.mkfifo(config)  # The host blocks until the FIFO has a writer.
    command = [sys.executable, "-c", TESTS_THAT_ARE_KILLED, str(config)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        descriptors = [os.pidfd_open(int(pid)) for pid in tests.stdout.readline().split()]
        tests.kill()
    assert len(descriptors) == 2
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], ENDS_SECONDS)[0], "it outlives the tests"
        os.close(descriptor)
