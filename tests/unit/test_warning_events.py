"""Warning Events about pending runs: one list request per namespace, and none if no run is pending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from finetune_api.failures import Reason
from finetune_api.stage import Stage
from finetune_core.runs import Observed, ObservedRun, PendingCause, RunId, RunState
from finetune_kube.errors import ApiError
from finetune_kube.objects import Key
from finetune_operator.observation.pending import WarningEvent
from finetune_operator.warning_events import WarningEvents
from tests.clock import run
from tests.kube_objects import a_child, a_pod, job_of, pod_of

PENDING = ObservedRun(RunId(1, Stage.TRAIN, 1), RunState.PENDING)
RUNNING = ObservedRun(RunId(1, Stage.TRAIN, 1), RunState.RUNNING)
NO_NODE = PendingCause(Reason.UNSCHEDULABLE, "No node takes it.")


class Events:
    """The Events of a fake API server."""

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.error: ApiError | None = None

    def warn(self, uid: str, reason: str, message: str) -> None:
        self.stored.append({"involvedObject": {"uid": uid}, "reason": reason, "message": message})

    async def list_warnings(self, namespace: str) -> AsyncIterator[dict[str, Any]]:
        self.requests.append(namespace)
        if self.error:
            raise self.error
        for event in self.stored:
            yield event


class Setup:
    """WarningEvents with a fake API server, recording the changed FineTuneJobs."""

    def __init__(self) -> None:
        self.events = Events()
        self.changed: list[Key] = []
        self.warnings = WarningEvents(self.events.list_warnings, self.changed.append)

    def track(self, name: str, run_: ObservedRun, namespace: str = "team-a") -> None:
        child = a_child(uid=f"uid-of-{name}")
        pods = [pod_of(a_pod(child, uid=f"uid-of-{name}-0"))]
        self.warnings.track((namespace, name), Observed((run_,)), {run_.id: (job_of(child), pods)})


def test_events_about_a_job_and_its_pods_reach_their_finetunejob() -> None:
    async def work() -> None:
        setup = Setup()
        setup.events.warn("uid-of-one-0", "FailedMount", "no such Secret")
        setup.events.warn("uid-of-two", "FailedCreate", "exceeded quota")
        setup.events.warn("uid-of-two", "BackOff", "which says nothing that a pod does not")
        setup.track("one", PENDING)
        setup.track("two", PENDING)
        await asyncio.sleep(4)
        assert setup.warnings.of("uid-of-one") == (WarningEvent("FailedMount", "no such Secret"),)
        assert setup.warnings.of("uid-of-two") == (WarningEvent("FailedCreate", "exceeded quota"),)
        assert setup.changed == [("team-a", "one"), ("team-a", "two")]
        await asyncio.sleep(60)
        assert len(setup.changed) == 2
        await setup.warnings.close()

    run(work())


def test_one_list_request_per_namespace_and_interval_for_any_number_of_pending_jobs() -> None:
    async def work() -> None:
        setup = Setup()
        for number in range(500):
            setup.track(f"job-{number}", PENDING)
        setup.track("elsewhere", PENDING, namespace="team-b")
        await asyncio.sleep(31)
        assert setup.events.requests.count("team-a") == setup.events.requests.count("team-b") == 6
        await setup.warnings.close()

    run(work())


def test_no_request_for_running_untracked_or_unschedulable_runs() -> None:
    async def work() -> None:
        setup = Setup()
        setup.track("computes", RUNNING)
        setup.track("waits", ObservedRun(PENDING.id, RunState.PENDING, pending_cause=NO_NODE))
        setup.track("untracked", PENDING)
        setup.warnings.untrack(("team-a", "untracked"))
        setup.track("starts-in-time", PENDING)
        setup.track("starts-in-time", RUNNING)
        await asyncio.sleep(60)
        assert setup.events.requests == []

    run(work())


def test_events_are_dropped_when_the_run_starts_and_listed_again_for_another_pending_run() -> None:
    async def work() -> None:
        setup = Setup()
        setup.events.warn("uid-of-one-0", "FailedMount", "no such Secret")
        setup.track("one", PENDING)
        await asyncio.sleep(4)
        setup.track("one", RUNNING)
        assert setup.warnings.of("uid-of-one") == ()
        await asyncio.sleep(60)
        requests = len(setup.events.requests)
        setup.track("two", PENDING)
        await asyncio.sleep(4)
        assert len(setup.events.requests) == requests + 1
        await setup.warnings.close()

    run(work())


def test_listing_is_retried_after_an_api_error() -> None:
    async def work() -> None:
        setup = Setup()
        setup.events.warn("uid-of-one-0", "FailedMount", "no such Secret")
        setup.events.error = ApiError(503, "ServiceUnavailable", "not now")
        setup.track("one", PENDING)
        await asyncio.sleep(4)
        assert setup.changed == []
        setup.events.error = None
        await asyncio.sleep(5)
        assert setup.changed == [("team-a", "one")]
        await setup.warnings.close()

    run(work())
