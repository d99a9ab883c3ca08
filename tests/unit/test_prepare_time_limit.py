"""The limit on the time of a chat template."""

from __future__ import annotations

import signal
import threading

import pytest

from finetune_trainer.prepare.time_limit import time_limit


def test_code_without_end_is_interrupted() -> None:
    def run() -> None:
        with time_limit(0.01):
            while True:
                pass

    with pytest.raises(TimeoutError):
        run()


def test_the_timer_and_the_handler_of_the_caller_are_restored() -> None:
    received: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, _: received.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 3600)
    try:
        with time_limit(60):
            pass
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 60
        signal.raise_signal(signal.SIGALRM)
        assert received == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def test_other_threads_have_no_limit() -> None:
    ended = threading.Event()

    def work() -> None:
        with time_limit(60):
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended.is_set()
