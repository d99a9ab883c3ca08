"""The Events of a job: each thing that happens is told once, in words that stand alone."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.evaluation import GateResult
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.spec import Metric
from finetune_api.stage import Stage
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, RunState, Trouble
from finetune_operator.announcements import Announcement, announcements, event
from tests.builders import NOON, a_job, a_run, after, an_evaluation, failed, killed, succeeded

REFUSED = an_evaluation(GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False))


def told(
    job: FineTuneJob, *runs: ObservedRun, stop: bool = False, at: float = 10
) -> tuple[FineTuneJob, list[Announcement]]:
    """The job after one look at it, and what that tells."""
    status = plan(job, Observed(runs, stop_requested=stop), after(seconds=at)).status
    return job.model_copy(update={"status": status}), list(announcements(job.status, status))


def words(said: list[Announcement]) -> list[tuple[str, str, str]]:
    return [(one.type, one.reason, one.message) for one in said]


def life(job: FineTuneJob, *looks: tuple[ObservedRun, ...]) -> list[Announcement]:
    everything = []
    for number, runs in enumerate(looks):
        job, said = told(job, *runs, at=10.0 * number)
        everything += said
    return everything


def test_a_life_is_told_step_by_step() -> None:
    done = [succeeded(stage) for stage in Stage]
    said = life(a_job(), (), *[tuple(done[:count]) for count in range(1, 5)])
    assert [one.reason for one in said] == [
        "PrepareStarted",
        *("PrepareSucceeded", "TrainStarted"),
        *("TrainSucceeded", "EvaluateStarted"),
        *("EvaluateSucceeded", "PublishStarted"),
        *("PublishSucceeded", "Published"),
    ]
    assert {one.type for one in said} == {"Normal"}
    assert said[-1].message == "The result lies at s3://adapters/team-a/intents/r1/artifact."


def test_nothing_new_is_nothing_to_tell() -> None:
    job, _ = told(a_job(), a_run(Stage.PREPARE))
    assert told(job, a_run(Stage.PREPARE), at=60)[1] == []


def test_a_retry_says_why() -> None:
    job, _ = told(a_job(), a_run(Stage.PREPARE))
    job, said = told(job, killed(Stage.PREPARE))
    assert words(said) == [
        (
            "Warning",
            "Killed",
            "Stage prepare, attempt 1, will be tried again: prepare was killed by SIGKILL; when nobody did that, the "
            "memory did not suffice.",
        )
    ]
    _, said = told(job, killed(Stage.PREPARE), at=60)
    assert words(said) == [("Normal", "PrepareStarted", "Stage prepare starts, attempt 2.")]


def test_a_disruption_is_no_warning() -> None:
    job, _ = told(a_job(), a_run(Stage.PREPARE))
    _, said = told(job, killed(Stage.PREPARE, disrupted=True))
    assert (said[0].type, said[0].reason) == ("Normal", "Disrupted")
    assert said[0].message.startswith("Stage prepare, attempt 1, will be tried again: ")


def test_the_end_is_told_once() -> None:
    job, _ = told(a_job(), a_run(Stage.PREPARE))
    _, said = told(job, failed(Stage.PREPARE, Reason.BAD_DATA))
    assert words(said) == [
        ("Warning", "BadData", "Stage prepare, attempt 1, is not tried again: prepare met BadData."),
    ]


def test_a_gate_refuses() -> None:
    _, said = told(
        a_job(), succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), succeeded(Stage.EVALUATE, evaluation=REFUSED)
    )
    assert words(said)[-1] == ("Warning", "Rejected", "Not published: accuracy is 0.84, 0.06 below the minimum 0.9.")


def test_what_a_run_waits_for_is_told_once_for_each_reason() -> None:
    def waiting(reason: Reason) -> ObservedRun:
        return a_run(Stage.PREPARE, RunState.PENDING, started_at=None, trouble=Trouble(reason, f"{reason}.", NOON))

    job, _ = told(a_job(), a_run(Stage.PREPARE, RunState.PENDING, started_at=None))
    job, said = told(job, waiting(Reason.UNSCHEDULABLE))
    assert words(said) == [("Warning", "Unschedulable", "Unschedulable.")]
    job, said = told(job, waiting(Reason.UNSCHEDULABLE))
    assert said == []
    _, said = told(job, waiting(Reason.IMAGE_UNAVAILABLE))
    assert [one.reason for one in said] == ["ImageUnavailable"]


def test_every_suspension_is_told() -> None:
    job, said = told(a_job(), stop=True)
    first = next(one for one in said if one.reason == "Suspended")
    job, _ = told(job, at=20)
    job, _ = told(job, a_run(Stage.PREPARE), at=30)
    job, said = told(job, failed(Stage.PREPARE, Reason.STOPPED), stop=True, at=40)
    second = next(one for one in said if one.reason == "Suspended")
    assert first.occasion != second.occasion


def test_a_changed_spec_begins_a_revision() -> None:
    job, _ = told(a_job(), succeeded(Stage.PREPARE))
    changed = a_job(status=job.status, generation=2, training={"epochs": 5})
    _, said = told(changed, succeeded(Stage.PREPARE))
    assert said[0] == Announcement("Normal", "NewRevision", "The spec has changed: revision 2 begins.", "r2")


class TestTheEvent:
    SAID = Announcement("Warning", "BadData", "No rows.", "r1/prepare/1")

    def made(self, said: Announcement = SAID, **metadata: Any) -> dict[str, Any]:
        job = a_job()
        return event(job.model_copy(update={"metadata": job.metadata.model_copy(update=metadata)}), said, NOON)

    def test_points_at_the_job(self) -> None:
        involved = self.made()["involvedObject"]
        assert (involved["kind"], involved["name"], involved["uid"]) == ("FineTuneJob", "intents", "uid-1")

    def test_has_a_name_that_says_what_it_tells_so_that_it_exists_once(self) -> None:
        name = self.made()["metadata"]["name"]
        assert name == event(a_job(), self.SAID, after(hours=3))["metadata"]["name"]
        others = [
            self.made(uid="another"),
            self.made(Announcement("Warning", "BadData", "No rows.", "r1/prepare/2")),
            self.made(Announcement("Warning", "Failed", "No rows.", "r1/prepare/1")),
        ]
        assert name not in {other["metadata"]["name"] for other in others}

    @pytest.mark.parametrize("length", [1, 1024, 1025, 30_000])
    def test_is_no_longer_than_the_api_server_takes(self, length: int) -> None:
        message = self.made(Announcement("Warning", "BadData", "a" * length, "r1"))["message"]
        assert len(message) == min(length, 1024)
        assert message.endswith("…") == (length > 1024)

    def test_has_a_name_that_fits_for_the_longest_job(self) -> None:
        assert len(self.made(name="a" * 63)["metadata"]["name"]) <= 253


def test_a_status_that_was_never_written_tells_only_what_is_new() -> None:
    _, said = told(a_job(status=FineTuneJobStatus()))
    assert [one.reason for one in said] == ["PrepareStarted"]
