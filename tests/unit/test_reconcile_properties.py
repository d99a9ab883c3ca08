"""Invariants of the plan, checked with random clusters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_api.evaluation import GateResult
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.spec import Metric
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, Plan, RunId, RunState, StageRun
from tests.builders import NOON, a_job, a_progress, an_evaluation, failed, killed, succeeded

REFUSED = an_evaluation(GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False))
SPECS = (
    a_job(resilience={"maxRestarts": 2, "stallTimeoutSeconds": 30, "activeDeadlineSeconds": 600}),
    a_job(generation=2, training={"learningRate": 1e-3}, resilience={"maxRestarts": 2, "stallTimeoutSeconds": 30}),
)

Ending = Callable[[RunId], ObservedRun]
ENDINGS: tuple[Ending, ...] = (
    lambda id_: succeeded(id_.stage, id_.attempt),
    lambda id_: succeeded(id_.stage, id_.attempt, report=None),
    lambda id_: succeeded(id_.stage, id_.attempt, evaluation=REFUSED),
    lambda id_: killed(id_.stage, id_.attempt),
    lambda id_: killed(id_.stage, id_.attempt, disrupted=True),
    *(
        (lambda id_, reason=reason: failed(id_.stage, reason, id_.attempt))  # type: ignore[misc]
        for reason in (Reason.UNAVAILABLE, Reason.STOPPED, Reason.INTERNAL_ERROR, Reason.BAD_DATA)
    ),
)


class World:
    """A cluster that executes the plan, and in which failures happen.

    A started run is observed late: after some time, or when the operator lists everything after a crash.
    """

    def __init__(self) -> None:
        self.job: FineTuneJob = SPECS[0]
        self.runs: dict[RunId, ObservedRun] = {}
        self.unobserved: set[RunId] = set()
        self.unrecorded: set[RunId] = set()
        self.started: set[RunId] = set()
        self.stop_requested = False
        self.now: datetime = NOON

    def observed(self) -> Observed:
        observed = tuple(run for id_, run in self.runs.items() if id_ not in self.unobserved)
        return Observed(observed, stop_requested=self.stop_requested)

    def pass_(self, crash: bool) -> None:
        """One reconcile; a crash may happen between its starts and its status write."""
        before, observed = self.job.status, self.observed()
        made = plan(self.job, observed, self.now)
        for run in made.start:
            self._start(run, before, made.status)
        if crash:
            self.unobserved.clear()
            self.unrecorded |= {run.id for run in made.start}
            return
        self.unrecorded = {id_ for id_ in self.unrecorded if id_.revision > made.status.revision}
        self._check_status(made, observed, before)
        self.job = self.job.model_copy(update={"status": made.status})

    def _start(self, run: StageRun, before: FineTuneJobStatus, after: FineTuneJobStatus) -> None:
        id_ = run.id
        assert id_ not in self.started, f"{id_} was started twice"
        assert not (before.completion_time and before.revision == id_.revision), "started after the end"
        for other in self.runs.values():
            # An unobserved run of a superseded revision is stopped as soon as it is observed, also if the job has
            # returned to that revision.
            returned = other.id.attempt <= after.attempts_before(other.id.stage)
            superseded = other.id in self.unobserved and (other.id.revision != id_.revision or returned)
            assert not other.alive or superseded, f"{id_} was started beside {other.id}"
        self.started.add(id_)
        self.unobserved.add(id_)
        self.runs[id_] = ObservedRun(id_, RunState.PENDING, run.job.spec_digest, started_at=self.now)

    def _check_status(self, made: Plan, observed: Observed, before: FineTuneJobStatus) -> None:
        status = made.status
        assert FineTuneJobStatus.model_validate_json(status.model_dump_json(exclude_none=True)) == status
        assert made.requeue_after is not None or status.completion_time or self.stop_requested, "would sleep for ever"
        if status.completion_time:
            assert not made.start
            live = any(run.alive for run in observed.runs)
            assert before.completion_time or not live, "the job finished before all runs had ended"
        # A second reconcile changes nothing, neither before nor after the started run is observed.
        found = tuple(ObservedRun(run.id, RunState.PENDING, run.job.spec_digest) for run in made.start)
        for runs in (observed.runs, (*observed.runs, *found)):
            job = self.job.model_copy(update={"status": status})
            again = plan(job, Observed(runs, stop_requested=self.stop_requested), self.now)
            assert again.start == ()
            assert again.status == status


Event = Callable[[World], None]


def _end(which: int) -> Event:
    def event(world: World) -> None:
        for id_, run in world.runs.items():
            if run.alive:
                end = ENDINGS[which](id_)
                world.runs[id_] = replace(
                    end, id=id_, spec_digest=run.spec_digest, started_at=run.started_at, finished_at=world.now
                )

    return event


def _progress(world: World) -> None:
    for id_, run in world.runs.items():
        if run.alive:
            progress = a_progress(id_.stage, id_.attempt, updated_at=world.now)
            world.runs[id_] = replace(run, state=RunState.RUNNING, progress=progress)


def _vanish(world: World) -> None:
    world.runs.clear()
    # An unrecorded run that was deleted cannot be distinguished from one that was never started.
    world.started -= world.unrecorded


def _change(world: World) -> None:
    changed = SPECS[1] if world.job.spec == SPECS[0].spec else SPECS[0]
    world.job = changed.model_copy(update={"status": world.job.status})


def _hold(world: World) -> None:
    world.stop_requested = not world.stop_requested


def _wait(seconds: int) -> Event:
    def event(world: World) -> None:
        world.now += timedelta(seconds=seconds)
        world.unobserved.clear()

    return event


EVENTS = st.one_of(
    st.sampled_from(range(len(ENDINGS))).map(_end),
    st.sampled_from([_progress, _progress, _vanish, _change, _hold]),
    st.sampled_from([0, 1, 5, 29, 60, 1000]).map(_wait),
)


@settings(max_examples=150)
@example([(_end(4), False), (_wait(5), True), (_change, False), (_vanish, False), (_change, False)])
@given(st.lists(st.tuples(EVENTS, st.booleans() | st.just(False)), max_size=30))
def test_invariants_hold_for_any_sequence_of_observations(history: list[tuple[Event, bool]]) -> None:
    world = World()
    world.pass_(crash=False)
    for event, crash in history:
        event(world)
        world.pass_(crash)
    _comes_to_an_end(world)


def _comes_to_an_end(world: World) -> None:
    """If every run succeeds from now on, the job finishes: no state is a dead end."""
    world.stop_requested = False
    for _ in range(80):
        world.pass_(crash=False)
        if world.job.status.completion_time:
            return
        _end(0)(world)
        world.unobserved.clear()
        world.now += plan(world.job, world.observed(), world.now).requeue_after or timedelta(0)
    raise AssertionError(f"does not end: {world.job.status}")
