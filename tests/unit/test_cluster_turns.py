"""Processes of tests that share the cluster, played by threads: none waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event

import pytest

from tests.cluster import sharing
from tests.cluster.sharing import Turns

SECONDS = 30


@pytest.fixture
def turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Turns]:
    monkeypatch.setattr(sharing, "CACHE", tmp_path)
    return Turns


class Visit:
    """Somebody who comes in, and stays until told to go."""

    def __init__(self, pool: ThreadPoolExecutor, enter: Callable[[], AbstractContextManager[None]]) -> None:
        self.is_in, self._go = Event(), Event()
        self._done: Future[None] = pool.submit(self._stay, enter)

    def _stay(self, enter: Callable[[], AbstractContextManager[None]]) -> None:
        with enter():
            self.is_in.set()
            assert self._go.wait(SECONDS)

    def leave(self) -> None:
        self._go.set()
        self._done.result(SECONDS)


def test_any_number_are_there_together_and_one_is_alone(turns: Callable[[], Turns]) -> None:
    with ThreadPoolExecutor(4) as pool:
        both = [Visit(pool, turns().together) for _ in range(2)]
        assert all(visit.is_in.wait(SECONDS) for visit in both)
        alone = Visit(pool, turns().alone)
        both[0].leave()
        assert not alone.is_in.is_set()
        both[1].leave()
        assert alone.is_in.wait(SECONDS)
        late = Visit(pool, turns().together)
        assert not late.is_in.is_set()
        alone.leave()
        assert late.is_in.wait(SECONDS)
        late.leave()


def test_who_was_alone_can_come_again_while_another_waits_to_be(turns: Callable[[], Turns]) -> None:
    mine = turns()
    with ThreadPoolExecutor(4) as pool:
        first = Visit(pool, mine.alone)
        assert first.is_in.wait(SECONDS)
        waiting = Visit(pool, turns().alone)
        first.leave()
        assert waiting.is_in.wait(SECONDS), "who has left keeps nobody out"
        again = Visit(pool, mine.together)
        assert not again.is_in.is_set()
        waiting.leave()
        assert again.is_in.wait(SECONDS)
        again.leave()


@pytest.mark.parametrize("brought_up", [True, False])
def test_the_last_run_takes_down_what_tests_brought_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brought_up: bool
) -> None:
    for place in ("RUN", "CACHE"):
        monkeypatch.setattr(sharing, place, tmp_path)
    prepared: list[int] = []
    down: list[int] = []
    first, second = sharing.Use(), sharing.Use()

    def prepare() -> bool:
        prepared.append(1)
        return brought_up

    for use in (first, second):
        use.begin(prepare)
    assert len(prepared) == 1, "the second found it there"
    first.end(lambda: down.append(1))
    assert not down, "the second still uses it"
    second.end(lambda: down.append(1))
    assert len(down) == brought_up
