"""The queue of what must be reconciled. Time is the event loop's, and is turned forward by hand."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.workqueue import WorkQueue
from tests.clock import run


def queued(queue: WorkQueue[str]) -> list[str]:
    """What is ready now, each taken and done."""
    taken = []
    while len(queue):
        get = queue.get()
        try:
            get.send(None)
        except StopIteration as found:
            taken.append(found.value)
            queue.done(found.value)
    return taken


class TestAKey:
    def test_comes_once_however_often_it_was_added(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            for key in ("a", "b", "a", "a"):
                queue.add(key)
            assert len(queue) == 2
            assert queued(queue) == ["a", "b"]

        run(work())

    def test_is_worked_on_by_one_worker_at_a_time(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add("a")
            assert await queue.get() == "a"
            queue.add("a")
            queue.add("b")
            assert await queue.get() == "b"
            waiting = asyncio.create_task(queue.get())
            await asyncio.sleep(0)
            assert not waiting.done()
            queue.done("a")
            assert await waiting == "a"

        run(work())

    def test_that_was_added_while_it_was_worked_on_comes_once_more(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add("a")
            await queue.get()
            queue.add("a")
            queue.add("a")
            queue.done("a")
            assert queued(queue) == ["a"]

        run(work())

    def test_is_not_lost_when_it_is_added_while_the_work_fails(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add("a")
            await queue.get()
            queue.add("a")
            queue.failed("a")
            assert queued(queue) == ["a"]

        run(work())


class TestAnUrgentKey:
    def test_comes_before_the_others(self) -> None:
        async def work() -> None:
            queue = WorkQueue(str.isupper)
            for key in ("a", "B", "c", "D"):
                queue.add(key)
            assert queue.urgent == 2
            assert queued(queue) == ["B", "D", "a", "c"]
            assert queue.urgent == 0

        run(work())

    def test_that_waits_already_is_moved_forward_and_comes_once(self) -> None:
        async def work() -> None:
            urgent: set[str] = set()
            queue: WorkQueue[str] = WorkQueue(urgent.__contains__)
            for key in ("a", "b"):
                queue.add(key)
            urgent.add("b")
            queue.add("b")
            queue.add("b")
            assert (len(queue), queue.urgent) == (2, 1)
            assert queued(queue) == ["b", "a"]

        run(work())


class TestLater:
    def test_is_when_the_time_has_come(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            start = asyncio.get_running_loop().time()
            queue.add_later("a", 60)
            assert len(queue) == 0
            assert await queue.get() == "a"
            assert asyncio.get_running_loop().time() - start == pytest.approx(60)

        run(work())

    @pytest.mark.parametrize("order", [(60, 5), (5, 60)])
    def test_the_earlier_of_two_times_counts_and_the_other_is_dropped(self, order: tuple[int, int]) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            start = asyncio.get_running_loop().time()
            for seconds in order:
                queue.add_later("a", seconds)
            await queue.get()
            assert asyncio.get_running_loop().time() - start == pytest.approx(min(order))
            queue.done("a")
            queue.add_later("b", 100)
            assert await queue.get() == "b"

        run(work())

    def test_is_dropped_when_the_key_comes_before(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add_later("a", 60)
            queue.add("a")
            queue.add_later("b", 100)
            assert queued(queue) == ["a"]
            assert await queue.get() == "b"

        run(work())

    def test_keys_come_in_the_order_of_their_times(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            for key, seconds in (("c", 30), ("a", 10), ("b", 20)):
                queue.add_later(key, seconds)
            assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]

        run(work())


class TestFailing:
    async def delays(self, count: int, at_least: float = 0.0) -> list[float]:
        queue: WorkQueue[str] = WorkQueue()
        loop = asyncio.get_running_loop()
        queue.add("a")
        found = []
        for number in range(1, count + 1):
            await queue.get()
            before = loop.time()
            assert queue.failed("a", at_least) == number
            await self.arrival(queue)
            found.append(round(loop.time() - before, 3))
        return found

    @staticmethod
    async def arrival(queue: WorkQueue[str]) -> None:
        key = await queue.get()
        queue._in_work.discard(key)
        queue.add(key)

    def test_comes_again_later_each_time_up_to_a_minute(self) -> None:
        async def work() -> None:
            found = await self.delays(12)
            assert found[:4] == [0.2, 0.4, 0.8, 1.6]
            assert found[-2:] == [60.0, 60.0]

        run(work())

    def test_waits_as_long_as_the_server_asks(self) -> None:
        async def work() -> None:
            assert await self.delays(2, at_least=30) == [30.0, 30.0]

        run(work())

    def test_is_forgotten_after_a_success(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add("a")
            await queue.get()
            queue.failed("a")
            await queue.get()
            queue.done("a")
            queue.add("a")
            await queue.get()
            assert queue.failed("a") == 1

        run(work())

    def test_of_one_holds_no_other_up(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add("a")
            await queue.get()
            queue.failed("a", at_least=1000)
            queue.add("b")
            assert queued(queue) == ["b"]

        run(work())
