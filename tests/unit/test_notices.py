"""Warning Events about pending runs: one request for all jobs of a namespace, and none when nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from finetune_api.failures import Reason
from finetune_api.stage import Stage
from finetune_core.runs import Observed, ObservedRun, RunId, RunState, Trouble
from finetune_kube.errors import ApiError
from finetune_kube.objects import Key
from finetune_operator.notices import Notices
from finetune_operator.observation.troubles import Notice
from tests.builders import NOON
from tests.clock import run
from tests.kube_objects import a_child, a_pod, job_of, pod_of

PENDING = ObservedRun(RunId(1, Stage.TRAIN, 1), RunState.PENDING)
RUNNING = ObservedRun(RunId(1, Stage.TRAIN, 1), RunState.RUNNING)
NO_NODE = Trouble(Reason.UNSCHEDULABLE, "No node takes it.", NOON)


class Events:
    """The API server, as far as Events go."""

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.error: ApiError | None = None

    def warn(self, uid: str, reason: str, message: str) -> None:
        self.stored.append({"involvedObject": {"uid": uid}, "reason": reason, "message": message})

    async def warnings(self, namespace: str) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(namespace)
        if self.error:
            raise self.error
        for event in self.stored:
            yield event


class Room:
    """Notices, whom they told of news, and jobs to ask about."""

    def __init__(self) -> None:
        self.events = Events()
        self.news: list[Key] = []
        self.notices = Notices(self.events.warnings, self.news.append)

    def follow(self, name: str, seen: ObservedRun, namespace: str = "team-a") -> None:
        child = a_child(uid=f"uid-of-{name}")
        pods = [pod_of(a_pod(child, uid=f"uid-of-{name}-0"))]
        self.notices.follow((namespace, name), Observed((seen,)), {seen.id: (job_of(child), pods)})


def test_a_job_hears_what_its_pods_and_its_job_were_warned_of() -> None:
    async def work() -> None:
        room = Room()
        room.events.warn("uid-of-one-0", "FailedMount", "no such Secret")
        room.events.warn("uid-of-two", "FailedCreate", "exceeded quota")
        room.events.warn("uid-of-two", "BackOff", "which says nothing that a pod does not")
        room.follow("one", PENDING)
        room.follow("two", PENDING)
        await asyncio.sleep(4)
        assert room.notices.of("uid-of-one") == (Notice("FailedMount", "no such Secret"),)
        assert room.notices.of("uid-of-two") == (Notice("FailedCreate", "exceeded quota"),)
        assert room.news == [("team-a", "one"), ("team-a", "two")]
        await asyncio.sleep(60)
        assert len(room.news) == 2
        await room.notices.close()

    run(work())


def test_however_many_wait_a_namespace_is_asked_once_at_a_time() -> None:
    async def work() -> None:
        room = Room()
        for number in range(500):
            room.follow(f"job-{number}", PENDING)
        room.follow("elsewhere", PENDING, namespace="team-b")
        await asyncio.sleep(31)
        assert room.events.asked.count("team-a") == room.events.asked.count("team-b") == 6
        await room.notices.close()

    run(work())


def test_nothing_is_asked_about_what_computes_is_gone_or_is_known_to_have_no_node() -> None:
    async def work() -> None:
        room = Room()
        room.follow("computes", RUNNING)
        room.follow("waits", ObservedRun(PENDING.id, RunState.PENDING, trouble=NO_NODE))
        room.follow("gone", PENDING)
        room.notices.leave(("team-a", "gone"))
        room.follow("starts-in-time", PENDING)
        room.follow("starts-in-time", RUNNING)
        await asyncio.sleep(60)
        assert room.events.asked == []

    run(work())


def test_what_was_warned_of_is_forgotten_when_the_run_computes_and_asked_for_again_when_another_waits() -> None:
    async def work() -> None:
        room = Room()
        room.events.warn("uid-of-one-0", "FailedMount", "no such Secret")
        room.follow("one", PENDING)
        await asyncio.sleep(4)
        room.follow("one", RUNNING)
        assert room.notices.of("uid-of-one") == ()
        await asyncio.sleep(60)
        asked = len(room.events.asked)
        room.follow("two", PENDING)
        await asyncio.sleep(4)
        assert len(room.events.asked) == asked + 1
        await room.notices.close()

    run(work())


def test_a_server_that_does_not_answer_is_asked_again() -> None:
    async def work() -> None:
        room = Room()
        room.events.warn("uid-of-one-0", "FailedMount", "no such Secret")
        room.events.error = ApiError(503, "ServiceUnavailable", "not now")
        room.follow("one", PENDING)
        await asyncio.sleep(4)
        assert room.news == []
        room.events.error = None
        await asyncio.sleep(5)
        assert room.news == [("team-a", "one")]
        await room.notices.close()

    run(work())
