"""The work queue, on an event loop with simulated time."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.queue import WorkQueue
from tests.clock import run


def queued(queue: WorkQueue[str]) -> list[str]:
    """The keys that are ready now, each taken and done."""
    taken = []
    while len(queue):
        get = queue.get()
        try:
            get.send(None)
        except StopIteration as found:
            taken.append(found.value)
            queue.done(found.value)
    return taken


class TestKey:
    def test_added_twice_is_returned_once(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            for key in ("a", "b", "a", "a"):
                queue.add(key)
            assert len(queue) == 2
            assert queued(queue) == ["a", "b"]

        run(work())

    def test_is_processed_by_one_worker_at_a_time(self) -> None:
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

    def test_added_while_processed_is_returned_once_more(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add("a")
            await queue.get()
            queue.add("a")
            queue.add("a")
            queue.done("a")
            assert queued(queue) == ["a"]

        run(work())

    def test_added_while_processing_fails_is_not_lost(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add("a")
            await queue.get()
            queue.add("a")
            queue.failed("a")
            assert queued(queue) == ["a"]

        run(work())


class TestUrgentKey:
    def test_is_returned_first(self) -> None:
        async def work() -> None:
            queue = WorkQueue(str.isupper)
            for key in ("a", "B", "c", "D"):
                queue.add(key)
            assert queue.urgent == 2
            assert queued(queue) == ["B", "D", "a", "c"]
            assert queue.urgent == 0

        run(work())

    def test_that_is_already_queued_moves_forward_and_is_returned_once(self) -> None:
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


class TestAddAfter:
    def test_returns_the_key_after_the_delay(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            start = asyncio.get_running_loop().time()
            queue.add_after("a", 60)
            assert len(queue) == 0
            assert await queue.get() == "a"
            assert asyncio.get_running_loop().time() - start == pytest.approx(60)

        run(work())

    @pytest.mark.parametrize("order", [(60, 5), (5, 60)])
    def test_earliest_of_two_delays_counts(self, order: tuple[int, int]) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            start = asyncio.get_running_loop().time()
            for seconds in order:
                queue.add_after("a", seconds)
            await queue.get()
            assert asyncio.get_running_loop().time() - start == pytest.approx(min(order))
            queue.done("a")
            queue.add_after("b", 100)
            assert await queue.get() == "b"

        run(work())

    def test_delay_is_dropped_when_the_key_is_processed_earlier(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add_after("a", 60)
            queue.add("a")
            queue.add_after("b", 100)
            assert queued(queue) == ["a"]
            assert await queue.get() == "b"

        run(work())

    def test_keys_are_returned_in_order_of_their_delays(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            for key, seconds in (("c", 30), ("a", 10), ("b", 20)):
                queue.add_after(key, seconds)
            assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]

        run(work())


class TestBackOff:
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
        queue._processing.discard(key)
        queue.add(key)

    def test_doubles_up_to_one_minute(self) -> None:
        async def work() -> None:
            found = await self.delays(12)
            assert found[:4] == [0.2, 0.4, 0.8, 1.6]
            assert found[-2:] == [60.0, 60.0]

        run(work())

    def test_is_at_least_the_retry_after_of_the_server(self) -> None:
        async def work() -> None:
            assert await self.delays(2, at_least=30) == [30.0, 30.0]

        run(work())

    def test_is_reset_after_a_success(self) -> None:
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

    def test_of_one_key_does_not_delay_others(self) -> None:
        async def work() -> None:
            queue: WorkQueue[str] = WorkQueue()
            queue.add("a")
            await queue.get()
            queue.failed("a", at_least=1000)
            queue.add("b")
            assert queued(queue) == ["b"]

        run(work())
