"""Many jobs over several teams, and somebody who kills at random all the while.

That the operator and the storage are away for a moment now and then must not trouble the tests that run beside it.
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
from tests.cluster.tenant import OVER, Tenant, classification, instruction, ranks, send

JOBS, TEAMS, AT_ONCE = 12, 3, 4
SECONDS_A_JOB = 20.0
"""So often a job is added: for four minutes, and somebody kills for as long as they last."""
ENDS = (*OVER, "Rejected", "Suspended")
SECONDS_BETWEEN = (14.0, 34.0)
GROWTH = 1.5
"""How much larger the operator may be at the end than when a third of the jobs are done."""


@pytest.fixture(scope="module", autouse=True)
def turn(alone: ExitStack, turns: Turns) -> Iterator[None]:
    """Other tests run beside it."""
    alone.close()
    with turns.together():
        yield


class Villain:
    """Kills a pod, a process of a pod, the operator or the S3 server, again and again.

    As often as jobs come: on a slow machine, each would otherwise be killed more often the longer it
    takes, and take longer still.
    """

    def __init__(self, teams: list[Tenant]) -> None:
        self.kills: dict[str, int] = {}
        self._teams = teams
        self._left = threading.Semaphore(0)
        self._draw = random.Random(11)
        self._over = threading.Event()

    def one_more(self) -> None:
        """Let it kill once more."""
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
            services.S3.again(services.s3_ready)

    def _work(self) -> None:
        deeds = (self._pod, self._pod, self._process, self._process, self._operator, self._storage)
        while not self._over.wait(self._draw.uniform(*SECONDS_BETWEEN)):
            if not self._left.acquire(blocking=False):
                continue
            deed = self._draw.choice(deeds)
            with suppress(Refused, RuntimeError, AssertionError, OSError, IndexError, KeyError):
                deed()
                name = deed.__name__.removeprefix("_")
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
        time.sleep(self._draw.uniform(1, 3))  # It is away for so long.
        services.S3.again(services.s3_ready)


def running_pods(team: Tenant) -> list[dict[str, Any]]:
    return [pod for pod in team.api.list("Pod", team.name) if pod["status"]["phase"] == "Running"]


def operator_memory() -> int:
    """Resident bytes of the operator; 0 while it starts."""
    sizes = [0]
    for pid in processes("-m finetune_operator", "/etc/finetune-operator/"):
        with suppress(OSError):
            sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return max(sizes)


def test_every_job_ends_right_and_nothing_is_left(make_tenant: Callable[[], Tenant]) -> None:
    teams = [make_tenant() for _ in range(TEAMS)]
    wanted: dict[tuple[int, str], str] = {}
    ended: set[tuple[int, str]] = set()
    sizes: list[int] = []

    def at_work() -> int:
        """How many jobs have not ended."""
        ended.update(job for job in wanted.keys() - ended if teams[job[0]].status(job[1]).get("phase") in ENDS)
        return len(wanted) - len(ended)

    villain = Villain(teams)
    with villain.at_work():
        begun = time.monotonic()
        for number in range(JOBS):
            team, name = teams[number % TEAMS], f"soak-{number}"
            time.sleep(max(0.0, begun + number * SECONDS_A_JOB - time.monotonic()))  # Jobs come when they come.
            wait_until(lambda: at_work() < AT_ONCE, "there is room for a job", 900, 1.0)
            sizes.append(operator_memory())
            team.apply(name, spec(number))
            wanted[number % TEAMS, name] = ends_as(number)
            villain.one_more()
            if ends_as(number) == "Suspended":
                team.until_step(name, 1)
                team.change(name, suspend=True)
        wait_until(lambda: not at_work(), "all jobs end", 900, 1.0)
    print(f"\n{len(wanted)} jobs, kills: {villain.kills}, operator up to {max(sizes) / 2**20:.0f} MiB")  # noqa: T201
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
    """Of ten jobs one passes no gate, one is held by its team as it trains, and one asks for data that is not there."""
    return {3: "Rejected", 5: "Suspended", 7: "Failed"}.get(number % 10, "Succeeded")


def spec(number: int) -> dict[str, object]:
    sections: dict[str, object] = {
        "distributed": {"workers": 1 + (number % 5 in (1, 4)), "zero": {"stage": (2, 3, 0)[number % 3]}},
        # One that its team holds lasts until that has seen it train.
        "training": {"maxSteps": 3000 if ends_as(number) == "Suspended" else 30},
        # Somebody kills again and again: what is tested is that it is made good, not when to give up.
        "resilience": {"maxRestarts": 50},
    }
    if ends_as(number) == "Rejected":
        sections["evaluation"] = {"gates": [{"metric": "accuracy", "minimumImprovement": 1.0}]}
    if ends_as(number) == "Failed":
        sections["dataset"] = {"train": {"uri": "s3://inputs/nothing.jsonl", "secretRef": {"name": "s3"}}}
    return (instruction if number % 5 == 4 else classification)(**sections)  # type: ignore[arg-type]
