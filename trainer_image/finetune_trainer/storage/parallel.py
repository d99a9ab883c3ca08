"""Run many transfers concurrently."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item], at_once: int) -> list[Result]:
    """Call ``work`` on every item in up to ``at_once`` threads; return the results in the order of the items.

    After the first error no further calls start; running calls finish, and the error is raised.
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
