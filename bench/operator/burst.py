"""Bursts of jobs, each paired with a floor, and jobs that are submitted one after another."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

from bench.operator.client import PlainClient, in_parallel
from bench.operator.floor import Bodies, Floor, floor, name_of, single_applies
from bench.operator.report import figure, figures, log, medians, minutes, shares
from bench.operator.testbed import WAIT_SECONDS, Bench, Side, operator_metrics, per, remove, wait_until_settled
from tests.apiserver.desk import Operator


@dataclass(frozen=True)
class Burst:
    """The result of one round with an operator. Values per job are averages."""

    jobs_per_second: float
    settled_per_second: float
    cpu: dict[str, float]
    requests: dict[str, float]
    """Requests that the operator sent, without watches."""
    served: dict[str, float]
    """Requests to the API server from any client, without watches."""
    megabytes: tuple[float, float]
    """The operator's resident memory after the round, and its peak."""


def bursts(bench: Bench, sides: Sequence[Side], count: int, rounds: int) -> None:
    """Apply ``count`` jobs at once, for each operator and the floor in alternation."""
    floors: defaultdict[Side, list[Floor]] = defaultdict(list)
    found: defaultdict[Side, list[Burst]] = defaultdict(list)
    began = time.monotonic()
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            if number % 2 == 0:
                floors[side].append(_floor(bench, side, count))
            with bench.operator(side) as operator:
                found[side].append(uvloop.run(burst(bench, operator, count)))
            if number % 2:
                floors[side].append(_floor(bench, side, count))
            here, there = floors[side][-1], found[side][-1]
            log(
                f"burst{side}, round {number + 1} of {rounds}: floor {here.jobs_per_second:.1f}/s, "
                f"child Jobs {there.jobs_per_second:.1f}/s, settled {there.settled_per_second:.1f}/s"
            )
        if left := rounds - number - 1:
            log(f"burst: about {minutes((time.monotonic() - began) / (number + 1) * left)} left")
    for side in sides:
        _report(floors[side], found[side], jobs=count, **side.labels)


def _floor(bench: Bench, side: Side, count: int) -> Floor:
    bench.install(side, for_floor=True)
    return uvloop.run(floor(bench, count))


def _report(floors: Sequence[Floor], found: Sequence[Burst], **more: Any) -> None:
    floor_rates = [each.jobs_per_second for each in floors]
    burst_rates = [each.jobs_per_second for each in found]
    settled_rates = [each.settled_per_second for each in found]
    figures("burst_share_of_floor", shares(burst_rates, floor_rates), "1", **more)
    figures("settled_share_of_floor", shares(settled_rates, floor_rates), "1", **more)
    figures("floor_jobs_per_second", floor_rates, "1/s", **more)
    figures("burst_jobs_per_second", burst_rates, "1/s", **more)
    figures("settled_jobs_per_second", settled_rates, "1/s", **more)
    figures("operator_megabytes", [each.megabytes[0] for each in found], "MB", **more)
    figures("operator_megabytes_at_most", [each.megabytes[1] for each in found], "MB", **more)
    for who in ("operator", "api_server"):
        requests = [each.requests if who == "operator" else each.served for each in found]
        totals = [sum(each.values()) for each in requests]
        figures(f"{who}_requests_per_job", totals, "1", by=medians(requests), **more)
    for name, cpu in (("", [each.cpu for each in found]), ("floor_", [each.cpu for each in floors])):
        in_ms = [{process: seconds * 1000 for process, seconds in each.items()} for each in cpu]
        figures(f"{name}cpu_ms_per_job", [sum(each.values()) for each in in_ms], "ms", by=medians(in_ms), **more)


async def burst(bench: Bench, operator: Operator, count: int) -> Burst:
    """Apply all jobs at once, and measure until each has its child Job, and until each has its status."""
    async with PlainClient(bench.plane) as plain:
        await warm_up(bench, plain, operator)
        namespace = bench.namespace()
        bodies = Bodies(namespace)

        async def apply(number: int) -> None:
            name = name_of(number)
            await plain.apply("FineTuneJob", namespace, name, bodies.job(name))

        served, sent, cpu = await bench.requests(plain), await operator_metrics(plain, operator), bench.cpu()
        async with plain.child_watch(namespace) as watch:
            began = time.monotonic()
            await in_parallel(apply, range(count))
            await watch.until(lambda seen: len(seen) == count, f"{count} jobs have their Job", WAIT_SECONDS)
            seconds = max(watch.seen.values()) - began
        settled = await wait_until_settled(plain, operator, count) - began
        while not await all_started(plain, namespace):
            settled = await wait_until_settled(plain, operator, count) - began
        after = bench.cpu()
        sent_after, served_after = await operator_metrics(plain, operator), await bench.requests(plain)
        memory = bench.memory()
        await remove(plain, operator, namespace)
    return Burst(
        count / seconds,
        count / settled,
        per(count, after, cpu),
        per(count, sent_after.requests(), sent.requests()),
        per(count, served_after, served),
        memory,
    )


async def all_started(plain: PlainClient, namespace: str) -> bool:
    """Whether the API server shows for each job a status in which its first stage has started."""
    statuses = [job.get("status", {}) for job in await plain.list("FineTuneJob", namespace)]
    return all(any(stage.get("attempt") for stage in status.get("stages", ())) for status in statuses)


async def warm_up(bench: Bench, plain: PlainClient, operator: Operator) -> None:
    """Run one job. Its child Job proves that the watches of the operator are established."""
    namespace = bench.namespace()
    async with plain.child_watch(namespace) as watch:
        await plain.apply("FineTuneJob", namespace, name_of(0), Bodies(namespace).job(name_of(0)))
        await watch.until(bool, "a job has its Job", WAIT_SECONDS)
    await wait_until_settled(plain, operator, jobs=1)
    await remove(plain, operator, namespace)


def submit(bench: Bench, sides: Sequence[Side], times: int, rounds: int) -> None:
    """Submit one job after another to each operator, between two series of single applies without an operator."""
    for side in sides:
        bench.install(side)
        applied, waited = uvloop.run(single_applies(bench, times)), []
        for _ in range(rounds):
            with bench.operator(side) as operator:
                waited += uvloop.run(_submitted(bench, operator, times))
            applied += uvloop.run(single_applies(bench, times))
        apply, wait = statistics.median(applied), statistics.median(waited)
        log(f"submit{side}: one apply of a Job {apply * 1000:.1f} ms, from apply to Job {wait * 1000:.1f} ms")
        figure("submit_over_apply", wait / apply, "1", **side.labels)
        for name, values in (("submit_to_job_seconds", waited), ("apply_seconds", applied)):
            spread = {"min": round(min(values), 4), "max": round(max(values), 4), "times": len(values)}
            figure(name, statistics.median(values), "s", **spread, **side.labels)


def _has(name: str, seen: Mapping[str, float]) -> bool:
    return name in seen


async def _submitted(bench: Bench, operator: Operator, times: int) -> list[float]:
    """Seconds from the response to each apply until its child Job exists."""
    seconds = []
    async with PlainClient(bench.plane) as plain:
        await warm_up(bench, plain, operator)
        namespace = bench.namespace()
        bodies = Bodies(namespace)
        async with plain.child_watch(namespace) as watch:
            for number in range(times):
                name = name_of(number)
                await plain.apply("FineTuneJob", namespace, name, bodies.job(name))
                began = time.monotonic()
                await watch.until(partial(_has, name), f"{name} has its Job", WAIT_SECONDS)
                # The watch may deliver the Job before the response arrives.
                seconds.append(max(watch.seen[name] - began, 0.0))
                # Measure a single job without a queue: wait for the status writes that follow the Job.
                await wait_until_settled(plain, operator, number + 1)
                await asyncio.sleep(0.1)
        await remove(plain, operator, namespace)
    return seconds
