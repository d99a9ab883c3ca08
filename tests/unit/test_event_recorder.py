"""Events are created after everything else, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import chain, repeat
from typing import Any

import pytest

from finetune_kube.errors import ApiError
from finetune_operator import event_recorder
from finetune_operator.event_recorder import EventRecorder


class Api:
    """An API server that first answers with the given errors."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.answers: dict[str, list[ApiError]] = {}
        self.changed = asyncio.Event()

    async def create(self, event: Mapping[str, Any]) -> None:
        if errors := self.answers.get(event["name"]):
            raise errors.pop(0)
        self.created.append(event["name"])
        self.changed.set()

    async def until(self, count: int) -> list[str]:
        while len(self.created) < count:
            self.changed.clear()
            await self.changed.wait()
        return self.created


def events(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_recorder, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(event_recorder, "_FIRST_RETRY_SECONDS", 0.001)


def test_events_wait_until_the_operator_is_idle() -> None:
    async def scenario() -> None:
        api, asked = Api(), chain([False, True, False], repeat(True))
        seen: list[int] = []

        def is_idle() -> bool:
            seen.append(len(api.created))
            return next(asked)

        recorder = EventRecorder(api.create, is_idle)
        async with recorder.running():
            recorder.record(events("a", "b"))
            assert await api.until(2) == ["a", "b"]
        # A moment without work does not count.
        assert seen[: 3 + event_recorder._IDLE_POLLS] == [0] * (3 + event_recorder._IDLE_POLLS)

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_an_operator_that_is_never_idle_creates_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_recorder, "_MAX_DELAY_SECONDS", 0.01)

    async def scenario() -> None:
        api = Api()
        recorder = EventRecorder(api.create, lambda: False)
        async with recorder.running():
            recorder.record(events("a"))
            assert await api.until(1) == ["a"]

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_an_outage_loses_no_event_and_a_rejected_event_is_not_retried() -> None:
    async def scenario() -> None:
        api = Api()
        api.answers = {
            "a": [ApiError(0, "Unreachable", "no route"), ApiError(500, "InternalError", "etcd")],
            "b": [ApiError(403, "Forbidden", "namespace is being terminated")],
        }
        recorder = EventRecorder(api.create, lambda: True)
        async with recorder.running():
            recorder.record(events("a", "b", "c"))
            assert await api.until(2) == ["c", "a"]
            recorder.record(events("d"))
            assert await api.until(3) == ["c", "a", "d"]
        assert set(api.created) == {"a", "c", "d"}

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_the_remaining_events_are_created_at_exit() -> None:
    async def scenario() -> list[str]:
        api = Api()
        recorder = EventRecorder(api.create, lambda: False)
        async with recorder.running():
            recorder.record(events(*map(str, range(20))))
        return api.created

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == [str(number) for number in range(20)]
