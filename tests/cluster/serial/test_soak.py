"""Many jobs of several teams, while pods, processes, operator and storage are killed at random.

Other tests run at the same time, and must tolerate short outages of the operator and the storage.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.api import Refused
from tests.apiserver.control_plane import wait_until
from tests.cluster import services
from tests.cluster.cluster import kill_operators
from tests.cluster.daemons import processes
from tests.cluster.sharing import Turns
from tests.cluster.tenant import FINISHED, Tenant, classification, instruction, ranks, send

JOBS, TEAMS, AT_ONCE = 12, 3, 4
SECONDS_A_JOB = 20.0
"""The interval at which jobs are created, for four minutes. The kills continue until all jobs have ended."""
ENDS = (*FINISHED, "Rejected", "Suspended")
SECONDS_BETWEEN = (14.0, 34.0)
GROWTH = 1.5
"""The tolerated growth of the operator's memory, from the first third of the jobs to the last."""


@pytest.fixture(scope="module", autouse=True)
def turn(alone: ExitStack, turns: Turns) -> Iterator[None]:
    """Other tests run at the same time."""
    alone.close()
    with turns.together():
        yield


class RandomKiller:
    """Kills a pod, a process in a pod, the operator or the S3 server at random intervals.

    There are at most as many kills as jobs. Otherwise, jobs on a slow machine would be killed more often the longer
    they run, and run even longer.
    """

    def __init__(self, teams: list[Tenant]) -> None:
        self.kills: dict[str, int] = {}
        self._teams = teams
        self._left = threading.Semaphore(0)
        self._draw = random.Random(11)
        self._over = threading.Event()

    def allow_one_more(self) -> None:
        """Allow one more kill."""
        self._left.release()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            services.S3.restart(services.s3_ready)

    def _work(self) -> None:
        kinds = (self._pod, self._pod, self._process, self._process, self._operator, self._storage)
        while not self._over.wait(self._draw.uniform(*SECONDS_BETWEEN)):
            if not self._left.acquire(blocking=False):
                continue
            kill = self._draw.choice(kinds)
            with suppress(Refused, RuntimeError, AssertionError, OSError, IndexError, KeyError):
                kill()
                name = kill.__name__.removeprefix("_")
                self.kills[name] = self.kills.get(name, 0) + 1

    def _pod(self) -> None:
        team = self._draw.choice(self._teams)
        team.delete_pod(self._draw.choice(running_pods(team)))

    def _process(self) -> None:
        team = self._draw.choice(self._teams)
        send([ranks(self._draw.choice(running_pods(team)))[0]], signal.SIGKILL)

    def _operator(self) -> None:
        kill_operators()

    def _storage(self) -> None:
        services.S3.kill()
        time.sleep(self._draw.uniform(1, 3))  # The duration of the outage.
        services.S3.restart(services.s3_ready)


def running_pods(team: Tenant) -> list[dict[str, Any]]:
    return [pod for pod in team.api.list("Pod", team.name) if pod["status"]["phase"] == "Running"]


def operator_memory() -> int:
    """The resident memory of the operator in bytes; 0 while it starts."""
    sizes = [0]
    for pid in processes("-m finetune_operator", "/etc/finetune-operator/"):
        with suppress(OSError):
            sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return max(sizes)


def test_every_job_reaches_its_expected_phase_under_random_kills(make_tenant: Callable[[], Tenant]) -> None:
    teams = [make_tenant() for _ in range(TEAMS)]
    wanted: dict[tuple[int, str], str] = {}
    ended: set[tuple[int, str]] = set()
    sizes: list[int] = []

    def at_work() -> int:
        """The number of jobs that have not ended."""
        ended.update(job for job in wanted.keys() - ended if teams[job[0]].status(job[1]).get("phase") in ENDS)
        return len(wanted) - len(ended)

    killer = RandomKiller(teams)
    with killer.at_work():
        begun = time.monotonic()
        for number in range(JOBS):
            team, name = teams[number % TEAMS], f"soak-{number}"
            time.sleep(max(0.0, begun + number * SECONDS_A_JOB - time.monotonic()))  # Jobs are created at fixed times.
            wait_until(lambda: at_work() < AT_ONCE, "another job may start", 900, 1.0)
            sizes.append(operator_memory())
            team.apply(name, spec(number))
            wanted[number % TEAMS, name] = ends_as(number)
            killer.allow_one_more()
            if ends_as(number) == "Suspended":
                team.until_step(name, 1)
                team.change(name, suspend=True)
        wait_until(lambda: not at_work(), "all jobs have ended", 900, 1.0)
    print(f"\n{len(wanted)} jobs, kills: {killer.kills}, operator up to {max(sizes) / 2**20:.0f} MiB")  # noqa: T201
    for (index, name), phase in wanted.items():
        status = teams[index].status(name)
        assert status["phase"] == phase, f"{name}: {status.get('failure')}"
        published = (teams[index].revision(name) / "artifact" / "manifest.json").exists()
        assert published == (phase == "Succeeded")
    third = len(sizes) // 3
    early, late = max(sizes[:third]), max(sizes[-third:])
    assert late < early * GROWTH
    for team in teams:
        team.delete_jobs()
        wait_until(team.is_clean, "nothing is left", 180, 0.5)


def ends_as(number: int) -> str:
    """The expected phase. Of ten jobs, one fails a gate, one is suspended while it trains, and one has missing data."""
    return {3: "Rejected", 5: "Suspended", 7: "Failed"}.get(number % 10, "Succeeded")


def spec(number: int) -> dict[str, object]:
    sections: dict[str, object] = {
        "distributed": {"workers": 1 + (number % 5 in (1, 4)), "zero": {"stage": (2, 3, 0)[number % 3]}},
        # A job to be suspended must train until its first step is observed.
        "training": {"maxSteps": 3000 if ends_as(number) == "Suspended" else 30},
        # Tests recovery from many kills, not the limit of restarts.
        "resilience": {"maxRestarts": 50},
    }
    if ends_as(number) == "Rejected":
        sections["evaluation"] = {"gates": [{"metric": "accuracy", "minimumImprovement": 1.0}]}
    if ends_as(number) == "Failed":
        sections["dataset"] = {"train": {"uri": "s3://inputs/nothing.jsonl", "secretRef": {"name": "s3"}}}
    return (instruction if number % 5 == 4 else classification)(**sections)  # type: ignore[arg-type]
