"""The operator is killed, doubled and upgraded: every attempt has exactly one Job, and no stage runs twice."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import stage
from tests.cluster.cluster import NAMESPACE, RELEASE, install_chart, kill_operators, kubectl, operators
from tests.cluster.sharing import Turns
from tests.cluster.tenant import FINISHED, JOB_LABEL, Tenant, classification

KILLS = 8
"""`tests/apiserver/test_crash.py` kills the operator after each write. Here, a Deployment replaces its pod."""


class JobRecorder:
    """Records every child Job that existed, and which Jobs of a job ran at the same time."""

    def __init__(self, tenant: Tenant) -> None:
        self.uids: dict[str, set[str]] = defaultdict(set)
        self.together: set[tuple[str, ...]] = set()
        self._tenant = tenant

    @contextmanager
    def kept(self) -> Iterator[JobRecorder]:
        over = threading.Event()
        thread = threading.Thread(target=self._keep, args=(over,))
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    def _keep(self, over: threading.Event) -> None:
        while not over.wait(0.3):
            for job in self._tenant.api.list("Job", self._tenant.name):
                self.uids[job["metadata"]["name"]].add(job["metadata"]["uid"])
            # Use pods, because a Job stays active for a second after its pods have ended.
            active = defaultdict(set)
            for pod in self._tenant.api.list("Pod", self._tenant.name):
                if pod["status"]["phase"] not in ("Succeeded", "Failed"):
                    labels = pod["metadata"]["labels"]
                    active[labels[JOB_LABEL]].add(labels["batch.kubernetes.io/job-name"])
            self.together |= {tuple(sorted(names)) for names in active.values() if len(names) > 1}

    def check(self, tenant: Tenant, names: list[str]) -> None:
        """Check that each attempt had one Job, each stage one attempt, and that Jobs ran one at a time."""
        assert {name: uids for name, uids in self.uids.items() if len(uids) > 1} == {}
        assert self.together == set()
        for name in names:
            stages = ("prepare", "train", "evaluate", "publish")
            assert sorted(self.of(name)) == sorted(f"{name}-r1-{one}-1" for one in stages)
            assert all(stage(tenant.status(name), one)["attempt"] == 1 for one in stages)

    def of(self, name: str) -> list[str]:
        return [child for child in self.uids if child.startswith(f"{name}-r")]


@pytest.fixture
def recorder(tenant: Tenant) -> Iterator[JobRecorder]:
    with JobRecorder(tenant).kept() as recorder:
        yield recorder


def test_an_operator_killed_at_random_starts_no_stage_twice(tenant: Tenant, recorder: JobRecorder) -> None:
    draw = random.Random(5)
    begun: list[str] = []
    for _ in range(KILLS):
        if not begun or tenant.status(begun[-1]).get("phase") in FINISHED:
            begun.append(f"life-{len(begun)}")
            tenant.apply(begun[-1], classification(distributed={"workers": 1}))
        time.sleep(draw.uniform(0, 2.5))  # A random time for the kill.
        kill_operators()
        wait_until(operators, "the operator has a pod again", 60, 0.1)
    for name in begun:
        tenant.until_succeeded(name)
    recorder.check(tenant, begun)


def test_two_operators_and_an_upgrade_start_no_stage_twice(tenant: Tenant, recorder: JobRecorder) -> None:
    kubectl("scale", "deployment", RELEASE, "-n", NAMESPACE, "--replicas=2")
    kubectl("rollout", "status", "deployment", RELEASE, "-n", NAMESPACE, "--timeout=120s")
    tenant.apply("upgraded", classification())
    tenant.until("upgraded", lambda status: status["phase"] == "Training", "the job trains")
    with Turns("operator").alone():
        install_chart('podAnnotations={"release":"next"}')
    wait_until(lambda: len(operators()) == 1, "only the new operator is left", 60, 0.2)
    tenant.until_succeeded("upgraded")
    recorder.check(tenant, ["upgraded"])
