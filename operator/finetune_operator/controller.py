"""Reconciles one FineTuneJob: observe its runs, plan, execute the plan."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from finetune_api.base import KIND
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_core import reconcile, status
from finetune_core.policies import retention
from finetune_core.runs import Observed, ObservedRun, PendingCause, Plan, RunId, RunState, StageRun, StopRun
from finetune_kube.errors import ApiError
from finetune_kube.objects import ChildJob, ChildPod, Key, key_of, parse_job
from finetune_operator import admission
from finetune_operator.cache import Cache, CachedJob
from finetune_operator.cluster import Cluster
from finetune_operator.event_recorder import EventRecorder
from finetune_operator.events import event_object, events_between, unreported
from finetune_operator.logs import log_context
from finetune_operator.metrics import Metrics
from finetune_operator.observation.ends import nodes_without_gpus
from finetune_operator.observation.observe import observed_run
from finetune_operator.observation.pending import quoted, rejection_of
from finetune_operator.observation.taken import is_own, owner_of_name
from finetune_operator.outcomes import Outcomes
from finetune_operator.progress_poller import ProgressPoller
from finetune_operator.resources.job import stage_job, workers_service
from finetune_operator.resources.pod import GRACE_SECONDS
from finetune_operator.settings import TrainerSettings
from finetune_operator.warning_events import WarningEvents

Children = dict[RunId, tuple[ChildJob, list[ChildPod]]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Observation:
    """A job and its runs, as observed once at the start of a reconcile."""

    cached: CachedJob
    job: FineTuneJob
    children: Children
    runs: Observed
    now: datetime


@dataclass(frozen=True)
class Pollers:
    """Sources that are polled in the background, besides the watches."""

    progress: ProgressPoller
    warnings: WarningEvents


@dataclass(frozen=True)
class Sinks:
    """Where a reconcile reports to, besides the status."""

    events: EventRecorder
    metrics: Metrics


class Controller:
    """Reconciles jobs. `reconcile` may be called at any time, for different jobs also concurrently."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        pollers: Pollers,
        sinks: Sinks,
        trainer: TrainerSettings,
        *,
        urgent_waiting: Callable[[], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._progress, self._warnings = pollers.progress, pollers.warnings
        self._events, self._outcomes = sinks.events, Outcomes(sinks.metrics)
        self._trainer = trainer
        self._now = clock
        self._urgent_waiting = urgent_waiting
        self._reconciled: set[Key] = set()
        """FineTuneJobs that this process has reconciled."""
        self._pods_listed: set[str] = set()
        """Uids of ended Jobs whose pods were listed because some were missing from the cache."""

    async def reconcile(self, key: Key) -> timedelta | None:
        """Reconcile a job; returns when to reconcile it again without an event.

        After a run was started, the rest is left to the next reconcile while jobs without a child Job wait: GPUs get
        their work before status and Events are written.

        Raises:
            ApiError: A request failed; earlier requests of the reconcile keep their effect.
        """
        cached = self._cache.jobs.get(key)
        if cached is None or cached.deleting:
            self._progress.stop(key)
            self._warnings.untrack(key)
            self._reconciled.discard(key)
            self._outcomes.forget(key)
            return None
        try:
            job = FineTuneJob.model_validate_json(cached.text)
        except ValidationError as error:
            await self._report_invalid(cached, error)
            return None
        seen = await self._observe(cached, job)
        self._warnings.track(key, seen.runs, seen.children)
        self._count(seen, job.status)
        plan = await self._execute(seen)
        if plan.start and self._urgent_waiting():
            return timedelta(0)
        if await self._write_status(cached, job.status, plan.status):
            self._count(seen, plan.status)
        self._record_events(seen, plan.status)
        self._poll_progress(seen, plan.status)
        waits = [plan.requeue_after, await self._clean_up(seen, plan)]
        return min((wait for wait in waits if wait is not None), default=None)

    async def report_error(self, key: Key, message: str) -> None:
        """Write to the status of a job that its reconcile fails."""
        cached = self._cache.jobs.get(key)
        if cached is None or cached.deleting:
            return
        before, generation = _status_of(cached)
        await self._write_status(cached, before, status.reconcile_error(before, generation, message, self._now()))

    async def _observe(self, cached: CachedJob, job: FineTuneJob) -> _Observation:
        children = await self._with_missing_pods(cached, self._children(cached))
        now = self._now()
        runs = tuple(
            observed_run(child, pods, self._warnings.of(child.uid), self._progress.latest(cached.key, child.run), now)
            for child, pods in children.values()
        )
        observed = Observed(runs, job.spec.suspend, admission.refusal(job.spec, self._trainer))
        return _Observation(cached, job, children, observed, now)

    def _children(self, cached: CachedJob) -> Children:
        return {child.run: (child, pods) for child, pods in self._cache.runs_of(cached.key, cached.uid)}

    async def _with_missing_pods(self, cached: CachedJob, children: Children) -> Children:
        """``children`` with every pod of each ended Job: the watch may report the Job before its pods."""
        incomplete = [
            child
            for child, pods in children.values()
            if (child.complete or child.failed) and sum(pod.finished for pod in pods) < child.workers
        ]
        for child in incomplete:
            if child.uid in self._pods_listed:
                continue
            for pod in await self._cluster.list_pods(child.key):
                self._cache.update("Pod", pod)
            self._pods_listed.add(child.uid)
        return self._children(cached) if incomplete else children

    async def _execute(self, seen: _Observation) -> Plan:
        """Plan, stop and start runs. A run that the API server rejects is planned again as Pending."""
        job, runs, now = seen.job, seen.runs, seen.now
        if rejected := reconcile.rejected_run(job, runs):
            started = await self._start(rejected, seen)
            runs = _with_run(runs, started)
        plan = reconcile.plan(job, runs, now)
        for stop in plan.stop:
            if stop.id in seen.children:
                await self._stop(stop, *seen.children[stop.id], now)
            else:
                # Its Job was rejected, so there is nothing to stop.
                runs = _with_run(runs, ObservedRun(stop.id, RunState.STOPPED, finished_at=now))
                plan = reconcile.plan(_with_status(job, plan.status), runs, now)
        for run in plan.start:
            started = await self._start(run, seen)
            if started.pending_cause:
                plan = reconcile.plan(_with_status(job, plan.status), _with_run(runs, started), now)
        return plan

    async def _start(self, run: StageRun, seen: _Observation) -> ObservedRun:
        """Create the Job of a run; returns the resulting run."""
        with log_context(revision=run.id.revision, stage=run.id.stage):
            started = await self._create(run, seen)
            if started.pending_cause:
                log.warning("cannot start attempt %d: %s", run.id.attempt, started.pending_cause.message)
            else:
                log.info("started attempt %d", run.id.attempt)
            return started

    async def _create(self, run: StageRun, seen: _Observation) -> ObservedRun:
        avoided_nodes = nodes_without_gpus(pod for _, pods in seen.children.values() for pod in pods)
        manifest = workers_service(run.job)
        try:
            if run.world.workers > 1:
                await self._cluster.apply(manifest)
            manifest = stage_job(run, self._trainer, avoided_nodes, seen.job.metadata.labels)
            self._cache.update("Job", await self._create_job(manifest, run.job.uid))
        except ApiError as error:
            if not error.rejected:
                raise
            cause = await self._rejection(manifest, run, error)
            return ObservedRun(run.id, RunState.PENDING, pending_cause=cause)
        return ObservedRun(run.id, RunState.PENDING)

    async def _create_job(self, manifest: dict[str, Any], owner_uid: str) -> dict[str, Any]:
        """The child Job, created now or before: an operator may crash before it receives the response."""
        try:
            return await self._cluster.create(manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            existing = await self._cluster.get("Job", key_of(manifest))
            child = parse_job(existing)
            if child is None or child.owner_uid != owner_uid:
                raise
            return existing

    async def _rejection(self, manifest: dict[str, Any], run: StageRun, error: ApiError) -> PendingCause:
        """Why a child (a Job or a Service) of ``run`` was not created."""
        kind, key = manifest["kind"], key_of(manifest)
        if error.code == 403:
            return rejection_of(f"{kind} {key[1]}", error.message, run.world.workers)
        if error.code in (409, 422) and (existing := await self._find(kind, key)) and not is_own(existing, run.job):
            return PendingCause(Reason.SETUP_FAILED, owner_of_name(existing, run.job))
        message = f"{kind} {key[1]} cannot be created: {quoted(error.message)}"
        return PendingCause(Reason.SETUP_FAILED, message)

    async def _find(self, kind: str, key: Key) -> dict[str, Any] | None:
        try:
            return await self._cluster.get(kind, key)
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    async def _stop(self, stop: StopRun, child: ChildJob, pods: list[ChildPod], now: datetime) -> None:
        if stop.grace.total_seconds() < GRACE_SECONDS:
            # The Job controller deletes pods with their full grace period, and a kubelet that has started to count it
            # ignores a shorter one. So these pods are deleted first.
            due = now + stop.grace + timedelta(seconds=5)
            slow = [
                pod
                for pod in pods
                if not pod.finished and (pod.deletion_deadline is None or pod.deletion_deadline > due)
            ]
            await asyncio.gather(*(self._cluster.delete_pod(pod.key, pod.uid, stop.grace) for pod in slow))
        if not child.stop_requested:
            with log_context(revision=stop.id.revision, stage=stop.id.stage):
                log.info("stopping attempt %d", stop.id.attempt)
            self._cache.update("Job", await self._cluster.stop_job(child.key))

    def _count(self, seen: _Observation, stored: FineTuneJobStatus) -> None:
        jobs = {id_: child for id_, (child, _) in seen.children.items()}
        self._outcomes.stored(seen.cached.key, seen.cached.uid, stored, jobs, seen.now)

    def _record_events(self, seen: _Observation, after: FineTuneJobStatus) -> None:
        events = list(events_between(seen.job.status, after))
        if seen.cached.key not in self._reconciled:
            self._reconciled.add(seen.cached.key)
            events = [*unreported(seen.job.status, seen.now), *events]
        self._events.record(event_object(seen.job, event, seen.now) for event in events)

    async def _write_status(self, cached: CachedJob, before: FineTuneJobStatus, after: FineTuneJobStatus) -> bool:
        """Write a status that has changed; returns whether ``after`` is stored, not if the job was deleted."""
        if after == before:
            return True
        document = after.model_dump(mode="json", exclude_none=True)
        try:
            written = await self._cluster.write_status(cached.key, cached.uid, cached.version, document)
        except ApiError as error:
            if error.code == 404:
                return False
            if error.code == 409:
                # The cached job was outdated: read the current one for the next reconcile.
                self._cache.update(KIND, await self._cluster.get(KIND, cached.key))
            raise
        self._cache.update(KIND, written)
        return True

    async def _report_invalid(self, cached: CachedJob, error: ValidationError) -> None:
        """Write to the status that the spec cannot be parsed, for example if a newer CRD accepts it."""
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        message = f"The operator cannot parse this job: {'; '.join(problems)}."[:2000]
        before, generation = _status_of(cached)
        message += " Correct the spec, or upgrade the operator."
        await self._write_status(cached, before, status.invalid_spec(before, generation, message, self._now()))

    def _poll_progress(self, seen: _Observation, after: FineTuneJobStatus) -> None:
        """Poll the progress of the running run, from the pod with rank 0."""
        current = status.current_stage(after)
        _, pods = seen.children.get(RunId(after.revision, current.name, current.attempt), _NONE) if current else _NONE
        main = next((pod for pod in pods if pod.index == 0 and pod.phase == "Running" and not pod.finished), None)
        if main and main.address and not after.completion_time:
            self._progress.start(seen.cached.key, main)
        else:
            self._progress.stop(seen.cached.key)

    async def _clean_up(self, seen: _Observation, plan: Plan) -> timedelta | None:
        """Delete obsolete child Jobs and what only sidecars keep alive, and the job itself when its TTL expires.

        Returns the time until the TTL expires.
        """
        for run in seen.runs.runs:
            for pod in () if run.alive else seen.children[run.id][1]:
                if pod.lingers:
                    await self._cluster.delete_pod(pod.key, pod.uid, _SIDECAR_GRACE)
        for id_ in retention.obsolete(plan.status, seen.runs.runs):
            child = seen.children[id_][0]
            if not child.deleting:
                await self._cluster.delete("Job", child.key, child.uid)
        expires = retention.expires_at(_with_status(seen.job, plan.status))
        if expires is None or any(run.alive for run in seen.runs.runs):
            return None
        if seen.now < expires:
            return expires - seen.now
        log.info("deleting the job: resilience.ttlSecondsAfterFinished has passed")
        await self._cluster.delete(KIND, seen.cached.key, seen.cached.uid)
        return None


_SIDECAR_GRACE = timedelta(seconds=30)
"""Time for the sidecars of a pod whose stage has ended."""

_NONE: tuple[None, list[ChildPod]] = (None, [])


def _with_status(job: FineTuneJob, after: FineTuneJobStatus) -> FineTuneJob:
    return job.model_copy(update={"status": after})


def _with_run(observed: Observed, run: ObservedRun) -> Observed:
    others = tuple(other for other in observed.runs if other.id != run.id)
    return replace(observed, runs=(*others, run))


def _status_of(cached: CachedJob) -> tuple[FineTuneJobStatus, int]:
    """Status and generation of a job whose spec may be invalid."""
    document = json.loads(cached.text)
    try:
        before = FineTuneJobStatus.model_validate_json(json.dumps(document["status"]))
    except ValidationError:
        before = FineTuneJobStatus()
    return before, document["metadata"].get("generation", 1)
