"""One way to do many transfers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item], at_once: int) -> list[Result]:
    """``work`` on every item, ``at_once`` at a time; the results in the order of the items.

    The first error ends it: what has begun is finished, nothing more is begun, and the error is raised.
    """
    listed = list(items)
    if len(listed) < 2:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(max_workers=min(at_once, len(listed)), thread_name_prefix="storage") as pool:
        futures = [pool.submit(work, item) for item in listed]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
    for future in futures:
        if not future.cancelled():
            future.result()
    return [future.result() for future in futures]
