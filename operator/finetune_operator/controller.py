"""One look at one job: what is seen of it, the plan that follows, and the plan carried out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from finetune_api.base import KIND
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_core import reconcile, status
from finetune_core.policies import retention
from finetune_core.runs import Observed, ObservedRun, Plan, RunId, RunState, StageRun, StopRun, Trouble
from finetune_core.times import from_text
from finetune_kube.errors import ApiError
from finetune_kube.objects import JobFacts, Key, PodFacts, job_facts, key_of
from finetune_operator.announcements import announcements, event
from finetune_operator.cache import Cache, Stored
from finetune_operator.cluster import Cluster
from finetune_operator.logs import about
from finetune_operator.metrics import Metrics
from finetune_operator.notices import Notices
from finetune_operator.observation.ends import nodes_without_gpus
from finetune_operator.observation.observe import observed_run
from finetune_operator.observation.troubles import quoted, why_refused
from finetune_operator.outcomes import count_outcomes
from finetune_operator.progress import ProgressReader
from finetune_operator.resources.job import stage_job, workers_service
from finetune_operator.resources.pod import GRACE_SECONDS
from finetune_operator.settings import TrainerSettings

Children = dict[RunId, tuple[JobFacts, list[PodFacts]]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Look:
    """One look at one job."""

    stored: Stored
    job: FineTuneJob
    children: Children
    now: datetime


@dataclass(frozen=True)
class Readers:
    """What is asked for again and again, beside the watches."""

    progress: ProgressReader
    notices: Notices


class Controller:
    """Looks after jobs; `look` may be called at any time, for different jobs also at the same time."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        readers: Readers,
        metrics: Metrics,
        trainer: TrainerSettings,
        *,
        others_wait: Callable[[], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._progress, self._notices = readers.progress, readers.notices
        self._metrics = metrics
        self._trainer = trainer
        self._now = clock
        self._others_wait = others_wait
        self._caught: set[str] = set()
        """Jobs that have ended and whose pods were asked for, as not all of them were seen."""

    async def look(self, key: Key) -> timedelta | None:
        """Look at a job and do what follows; returns when to look again even if nothing is seen to happen.

        After a run was started the rest is left to the next look while jobs wait that have none: what a job computes
        comes before what is told of it.

        Raises:
            ApiError: Something could not be read or written; what was done stays done.
        """
        stored = self._cache.jobs.get(key)
        if stored is None or stored.deleting:
            self._progress.leave(key)
            self._notices.leave(key)
            return None
        try:
            job = FineTuneJob.model_validate_json(stored.text)
        except ValidationError as error:
            await self._refuse(stored, error)
            return None
        children = self._children(stored)
        look = _Look(stored, job, await self._caught_up(stored, children), self._now())
        observed = self._observed(look)
        self._notices.follow(key, observed, look.children)
        made = await self._carry_out(look, observed)
        if made.start and self._others_wait():
            return timedelta(0)
        await self._tell(look, made.status)
        await self._write(stored, job.status, made.status)
        self._follow(look, made.status)
        facts_of = {id_: facts for id_, (facts, _) in look.children.items()}
        count_outcomes(self._metrics, job.status, made.status, facts_of, look.now)
        waits = [made.look_again, await self._clear_up(look, made, observed)]
        return min((wait for wait in waits if wait is not None), default=None)

    async def confess(self, key: Key, sentence: str) -> None:
        """Say in a job's status that the operator fails to look after it."""
        stored = self._cache.jobs.get(key)
        if stored is None or stored.deleting:
            return
        before, generation = _status_of(stored)
        await self._write(stored, before, status.troubled(before, generation, sentence, self._now()))

    def _children(self, stored: Stored) -> Children:
        return {facts.run: (facts, pods) for facts, pods in self._cache.runs_of(stored.key, stored.uid)}

    async def _caught_up(self, stored: Stored, children: Children) -> Children:
        """``children`` with every pod of a Job that has ended: its end may be seen before that of its pods."""
        behind = [
            facts
            for facts, pods in children.values()
            if (facts.complete or facts.failed) and sum(pod.finished for pod in pods) < facts.workers
        ]
        for facts in behind:
            if facts.uid in self._caught:
                continue
            for pod in await self._cluster.list_pods(facts.key):
                self._cache.see("Pod", pod)
            self._caught.add(facts.uid)
        return self._children(stored) if behind else children

    def _observed(self, look: _Look) -> Observed:
        runs = tuple(
            observed_run(
                facts, pods, self._notices.of(facts.uid), self._progress.heard(look.stored.key, facts.run), look.now
            )
            for facts, pods in look.children.values()
        )
        return Observed(runs, stop_requested=look.job.spec.suspend)

    async def _carry_out(self, look: _Look, observed: Observed) -> Plan:
        """Plan, stop and start; what the API server refuses to create is planned with as a run in trouble."""
        job, now = look.job, look.now
        if awaited := reconcile.refused_run(job, observed):
            since = job.status.stage(awaited.id.stage).attempt_start_time
            started = await self._start(awaited, from_text(since) if since else now, look.children)
            observed = _with_run(observed, started)
        made = reconcile.plan(job, observed, now)
        for stop in made.stop:
            if stop.id in look.children:
                await self._stop(stop, *look.children[stop.id], now)
            else:
                # It was never created.
                observed = _with_run(observed, ObservedRun(stop.id, RunState.STOPPED, finished_at=now))
                made = reconcile.plan(_with(job, made.status), observed, now)
        for run in made.start:
            started = await self._start(run, now, look.children)
            if started.trouble:
                made = reconcile.plan(_with(job, made.status), _with_run(observed, started), now)
        return made

    async def _start(self, run: StageRun, since: datetime, children: Children) -> ObservedRun:
        """Create the Job of a run; returns the run as it is then."""
        with about(revision=run.id.revision, stage=run.id.stage):
            started = await self._create(run, since, children)
            if started.trouble:
                log.warning("not started: %s", started.trouble.message)
            else:
                log.info("started, attempt %d", run.id.attempt)
            return started

    async def _create(self, run: StageRun, since: datetime, children: Children) -> ObservedRun:
        avoided_nodes = nodes_without_gpus(pod for _, pods in children.values() for pod in pods)
        manifest = workers_service(run.job)
        try:
            if run.world.workers > 1:
                await self._cluster.apply(manifest)
            manifest = stage_job(run, self._trainer, avoided_nodes)
            self._cache.see("Job", await self._create_job(manifest, run.job.uid))
        except ApiError as error:
            if not error.rejected:
                raise
            what = f"{manifest['kind']} {manifest['metadata']['name']}"
            return ObservedRun(run.id, RunState.PENDING, trouble=_trouble(what, error, since))
        return ObservedRun(run.id, RunState.PENDING)

    async def _create_job(self, manifest: dict[str, Any], owner_uid: str) -> dict[str, Any]:
        """The child Job, created, or there already: the operator that created it may not have heard so."""
        try:
            return await self._cluster.create(manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            found = await self._cluster.get("Job", key_of(manifest))
            facts = job_facts(found)
            if facts is None or facts.owner_uid != owner_uid:
                raise
            return found

    async def _stop(self, stop: StopRun, facts: JobFacts, pods: list[PodFacts], now: datetime) -> None:
        if stop.grace.total_seconds() < GRACE_SECONDS:
            # The Job's own deletion of its pods gives them all their time, and a kubelet that has begun with that does
            # not hear of less: so this comes first.
            due = now + stop.grace + timedelta(seconds=5)
            hurried = [pod for pod in pods if not pod.finished and (pod.delete_by is None or pod.delete_by > due)]
            await asyncio.gather(*(self._cluster.delete_pod(pod.key, pod.uid, stop.grace) for pod in hurried))
        if not facts.stopped:
            with about(revision=stop.id.revision, stage=stop.id.stage):
                log.info("stopping, attempt %d", stop.id.attempt)
            self._cache.see("Job", await self._cluster.stop(facts.key))

    async def _tell(self, look: _Look, after: FineTuneJobStatus) -> None:
        told = [event(look.job, said, look.now) for said in announcements(look.job.status, after)]
        for result in await asyncio.gather(*map(self._cluster.create_event, told), return_exceptions=True):
            if isinstance(result, ApiError):
                log.warning("an Event could not be created: %s", result)
            elif result is not None:
                raise result

    async def _write(self, stored: Stored, before: FineTuneJobStatus, after: FineTuneJobStatus) -> None:
        if after == before:
            return
        document = after.model_dump(mode="json", exclude_none=True)
        try:
            answer = await self._cluster.write_status(stored.key, stored.uid, stored.version, document)
        except ApiError as error:
            if error.code == 404:
                return
            if error.code == 409:
                # It was planned with something old: take what there is now, for the next look.
                self._cache.see(KIND, await self._cluster.get(KIND, stored.key))
            raise
        self._cache.see(KIND, answer)

    async def _refuse(self, stored: Stored, error: ValidationError) -> None:
        """Say that a spec cannot be understood, such as one that a newer CRD let through."""
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        told = f"The operator does not understand this job: {'; '.join(problems)}."[:2000]
        before, generation = _status_of(stored)
        sentence = f"{told} Correct it, or update the operator."
        await self._write(stored, before, status.refused(before, generation, sentence, self._now()))

    def _follow(self, look: _Look, after: FineTuneJobStatus) -> None:
        """Have the progress of the running run read, from the pod that has rank 0."""
        current = status.current_stage(after)
        _, pods = look.children.get(RunId(after.revision, current.name, current.attempt), _NONE) if current else _NONE
        main = next((pod for pod in pods if pod.index == 0 and pod.phase == "Running" and not pod.finished), None)
        if main and main.address and not after.completion_time:
            self._progress.follow(look.stored.key, main)
        else:
            self._progress.leave(look.stored.key)

    async def _clear_up(self, look: _Look, made: Plan, observed: Observed) -> timedelta | None:
        """Delete what nobody needs any more, and the job itself at the end of its time; when that is, if it is not."""
        for id_ in retention.obsolete(made.status.revision, observed.runs):
            facts = look.children[id_][0]
            if not facts.deleting:
                await self._cluster.delete("Job", facts.key, facts.uid)
        expires = retention.expires_at(_with(look.job, made.status))
        if expires is None or any(run.alive for run in observed.runs):
            return None
        if look.now < expires:
            return expires - look.now
        log.info("deleted after resilience.ttlSecondsAfterFinished")
        await self._cluster.delete(KIND, look.stored.key, look.stored.uid)
        return None


_NONE: tuple[None, list[PodFacts]] = (None, [])


def _with(job: FineTuneJob, after: FineTuneJobStatus) -> FineTuneJob:
    return job.model_copy(update={"status": after})


def _with_run(observed: Observed, run: ObservedRun) -> Observed:
    others = tuple(other for other in observed.runs if other.id != run.id)
    return Observed((*others, run), observed.stop_requested)


def _status_of(stored: Stored) -> tuple[FineTuneJobStatus, int]:
    """Status and generation of a job whose spec may be anything."""
    document = json.loads(stored.text)
    try:
        before = FineTuneJobStatus.model_validate_json(json.dumps(document["status"]))
    except ValidationError:
        before = FineTuneJobStatus()
    return before, document["metadata"].get("generation", 1)


def _trouble(what: str, error: ApiError, since: datetime) -> Trouble:
    """Why ``what`` (``Job intents-r1-train-1``) could not be created."""
    if error.code == 403:
        reason, sentence = why_refused(what, error.message)
        return Trouble(reason, sentence, since)
    sentence = f"{what} cannot be created: {quoted(error.message)}"
    if error.code == 409:
        sentence = f"There is a {what} that is not this job's: {quoted(error.message)} Delete it, or rename this job."
    return Trouble(Reason.SETUP_FAILED, sentence, since)
