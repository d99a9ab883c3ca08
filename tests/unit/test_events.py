"""The Events of a job: each is created once and is a complete sentence."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.evaluation import GateResult
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.spec import Metric
from finetune_api.stage import Stage
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, PendingCause, RunState
from finetune_operator.events import JobEvent, event_object, events_between, unreported
from tests.builders import NOON, a_job, a_run, after, an_evaluation, failed, killed, succeeded
from tests.usual_stages import STAGES

REFUSED = an_evaluation(GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False))


def reconciled(
    job: FineTuneJob, *runs: ObservedRun, stop: bool = False, at: float = 10
) -> tuple[FineTuneJob, list[JobEvent]]:
    """The job after one reconcile, and the Events of its status change."""
    status = plan(job, Observed(runs, stop_requested=stop), after(seconds=at)).status
    return job.model_copy(update={"status": status}), list(events_between(job.status, status))


def words(events: list[JobEvent]) -> list[tuple[str, str, str]]:
    return [(one.type, one.reason, one.message) for one in events]


def life(job: FineTuneJob, *observations: tuple[ObservedRun, ...], interval: float = 10) -> list[JobEvent]:
    everything = []
    for number, runs in enumerate(observations):
        at = interval * number
        job, events = reconciled(job, *runs, at=at)
        # An operator that crashed before it created them creates them after its restart.
        assert set(events) <= set(unreported(job.status, after(seconds=at + 300)))
        everything += events
    return everything


def test_each_stage_of_a_successful_job_gets_its_events() -> None:
    done = [succeeded(stage) for stage in STAGES]
    events = life(a_job(), (), *[tuple(done[:count]) for count in range(1, 5)])
    assert [one.reason for one in events] == [
        "PrepareStarted",
        *("PrepareSucceeded", "TrainStarted"),
        *("TrainSucceeded", "EvaluateStarted"),
        *("EvaluateSucceeded", "PublishStarted"),
        *("PublishSucceeded", "Published"),
    ]
    assert {one.type for one in events} == {"Normal"}
    assert events[-1].message == "The artifact is published at s3://adapters/team-a/intents/r1/artifact."


@pytest.mark.parametrize(
    "runs",
    [
        (killed(Stage.PREPARE),),
        (failed(Stage.PREPARE, Reason.BAD_DATA),),
        (succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), succeeded(Stage.EVALUATE, evaluation=REFUSED)),
    ],
    ids=["retry", "failure", "rejection"],
)
def test_events_of_a_crash_are_found_in_the_status(runs: tuple[ObservedRun, ...]) -> None:
    assert life(a_job(), (), *[runs[: count + 1] for count in range(len(runs))], runs)


def test_events_that_were_created_long_ago_are_not_created_again() -> None:
    job, _ = reconciled(a_job(), at=0)
    job, _ = reconciled(job, killed(Stage.PREPARE), at=10)
    job, _ = reconciled(job, killed(Stage.PREPARE), at=60)
    done = succeeded(Stage.PREPARE, attempt=2, finished_at=after(seconds=7190))
    job, ended = reconciled(job, killed(Stage.PREPARE), done, at=7200)
    assert list(unreported(job.status, after(seconds=7500))) == ended
    assert [one.reason for one in ended] == ["PrepareSucceeded", "TrainStarted"]
    assert list(unreported(job.status, after(seconds=9000))) == []


def test_a_new_revision_whose_event_was_not_created_is_found() -> None:
    job, _ = reconciled(a_job(), succeeded(Stage.PREPARE), at=0)
    changed = a_job(status=job.status, generation=2, training={"epochs": 5})
    job, events = reconciled(changed, succeeded(Stage.PREPARE), at=3600)
    assert events[0].reason == "NewRevision"
    assert set(events) <= set(unreported(job.status, after(seconds=3700)))


def test_unchanged_status_creates_no_event() -> None:
    job, _ = reconciled(a_job(), a_run(Stage.PREPARE))
    assert reconciled(job, a_run(Stage.PREPARE), at=60)[1] == []


def test_retry_event_contains_the_cause() -> None:
    job, _ = reconciled(a_job(), a_run(Stage.PREPARE))
    job, events = reconciled(job, killed(Stage.PREPARE))
    assert words(events) == [
        (
            "Warning",
            "Killed",
            "Attempt 1 of stage prepare failed and is retried: prepare was killed by SIGKILL; if no one killed it, the "
            "memory was probably exhausted.",
        )
    ]
    _, events = reconciled(job, killed(Stage.PREPARE), at=60)
    assert words(events) == [("Normal", "PrepareStarted", "Stage prepare started, attempt 2.")]


def test_disruption_is_a_normal_event() -> None:
    job, _ = reconciled(a_job(), a_run(Stage.PREPARE))
    _, events = reconciled(job, killed(Stage.PREPARE, disrupted=True))
    assert (events[0].type, events[0].reason) == ("Normal", "Disrupted")
    assert events[0].message.startswith("Attempt 1 of stage prepare was stopped and is retried: ")


def test_final_failure_gets_one_event() -> None:
    job, _ = reconciled(a_job(), a_run(Stage.PREPARE))
    _, events = reconciled(job, failed(Stage.PREPARE, Reason.BAD_DATA))
    assert words(events) == [
        ("Warning", "BadData", "Attempt 1 of stage prepare failed and is not retried: prepare met BadData."),
    ]


def test_failed_gate_creates_a_rejected_event() -> None:
    _, events = reconciled(
        a_job(), succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), succeeded(Stage.EVALUATE, evaluation=REFUSED)
    )
    assert words(events)[-1] == ("Warning", "Rejected", "Not published: accuracy is 0.84, 0.06 below the minimum 0.9.")


def test_pending_cause_gets_one_event_per_reason() -> None:
    def waiting(reason: Reason) -> ObservedRun:
        return a_run(Stage.PREPARE, RunState.PENDING, started_at=None, pending_cause=PendingCause(reason, f"{reason}."))

    job, _ = reconciled(a_job(), a_run(Stage.PREPARE, RunState.PENDING, started_at=None))
    job, events = reconciled(job, waiting(Reason.UNSCHEDULABLE))
    assert words(events) == [("Warning", "Unschedulable", "Unschedulable.")]
    job, events = reconciled(job, waiting(Reason.UNSCHEDULABLE))
    assert events == []
    _, events = reconciled(job, waiting(Reason.IMAGE_UNAVAILABLE))
    assert [one.reason for one in events] == ["ImageUnavailable"]


def test_each_suspension_gets_its_own_event() -> None:
    job, events = reconciled(a_job(), stop=True)
    first = next(one for one in events if one.reason == "Suspended")
    job, _ = reconciled(job, at=20)
    job, _ = reconciled(job, a_run(Stage.PREPARE), at=30)
    job, events = reconciled(job, failed(Stage.PREPARE, Reason.STOPPED), stop=True, at=40)
    second = next(one for one in events if one.reason == "Suspended")
    assert first.occasion != second.occasion


def test_changed_spec_creates_a_new_revision_event() -> None:
    job, _ = reconciled(a_job(), succeeded(Stage.PREPARE))
    changed = a_job(status=job.status, generation=2, training={"epochs": 5})
    _, events = reconciled(changed, succeeded(Stage.PREPARE))
    assert events[0] == JobEvent("Normal", "NewRevision", "The spec has changed; starting revision 2.", "r2")


class TestEventObject:
    SAID = JobEvent("Warning", "BadData", "No rows.", "r1/prepare/1")

    def made(self, events: JobEvent = SAID, **metadata: Any) -> dict[str, Any]:
        job = a_job()
        return event_object(job.model_copy(update={"metadata": job.metadata.model_copy(update=metadata)}), events, NOON)

    def test_refers_to_the_finetunejob(self) -> None:
        involved = self.made()["involvedObject"]
        assert (involved["kind"], involved["name"], involved["uid"]) == ("FineTuneJob", "intents", "uid-1")

    def test_name_is_derived_from_the_content_so_that_it_is_created_once(self) -> None:
        name = self.made()["metadata"]["name"]
        assert name == event_object(a_job(), self.SAID, after(hours=3))["metadata"]["name"]
        others = [
            self.made(uid="another"),
            self.made(JobEvent("Warning", "BadData", "No rows.", "r1/prepare/2")),
            self.made(JobEvent("Warning", "Failed", "No rows.", "r1/prepare/1")),
        ]
        assert name not in {other["metadata"]["name"] for other in others}

    @pytest.mark.parametrize("length", [1, 1024, 1025, 30_000])
    def test_message_is_clipped_to_the_limit_of_the_api_server(self, length: int) -> None:
        message = self.made(JobEvent("Warning", "BadData", "a" * length, "r1"))["message"]
        assert len(message) == min(length, 1024)
        assert message.endswith("…") == (length > 1024)

    def test_name_is_valid_for_the_longest_job_name(self) -> None:
        assert len(self.made(name="a" * 63)["metadata"]["name"]) <= 253


def test_first_status_creates_only_events_for_what_it_contains() -> None:
    _, events = reconciled(a_job(status=FineTuneJobStatus()))
    assert [one.reason for one in events] == ["PrepareStarted"]
