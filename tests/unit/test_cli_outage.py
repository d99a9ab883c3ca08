"""How long a local run waits for a service that is unreachable."""

from __future__ import annotations

from datetime import timedelta

from finetune_api.failures import Fault, Reason
from finetune_api.job import FailureStatus, FineTuneJobStatus, StageState, StageStatus
from finetune_api.stage import Stage
from finetune_cli.local.outage import LIMIT, Outage, next_status, outage_after, retried_now
from finetune_core.times import to_text
from tests.builders import a_checkpoint, after


def unreachable(
    attempt: int, seconds: float, step: int | None = None, retry_after: str | None = None
) -> FineTuneJobStatus:
    """A job whose prepare stage found a service unreachable, some seconds after noon."""
    return FineTuneJobStatus(
        stages=(
            StageStatus(
                name=Stage.PREPARE,
                state=StageState.PENDING,
                attempt=attempt,
                completion_time=to_text(after(seconds=seconds)),
                retry_time=to_text(after(seconds=seconds + 300)),
            ),
        ),
        checkpoint=None if step is None else a_checkpoint(step),
        failure=FailureStatus(
            reason=Reason.UNAVAILABLE,
            message="Cannot reach the hub",
            stage=Stage.PREPARE,
            attempt=attempt,
            exit_code=69,
            fault=Fault.CLUSTER,
            retried=True,
            retry_after=retry_after,
        ),
    )


def outage_of(*statuses: FineTuneJobStatus) -> Outage:
    found = None
    for status in statuses:
        found = outage_after(status, found)
    assert found is not None
    return found


def test_delays_double_up_to_half_a_minute() -> None:
    seen, found, seconds = [], None, 0.0
    for attempt in range(1, 8):
        found = outage_after(unreachable(attempt, seconds), found)
        assert found is not None
        seen.append(found.delay.total_seconds())
        seconds += seen[-1]
    assert seen == [2, 4, 8, 16, 30, 30, 30]


def test_no_other_attempt_starts_after_the_limit() -> None:
    first, status = unreachable(1, 0), unreachable(2, LIMIT.total_seconds())
    found = outage_of(first, status)
    assert found.ends
    ended = next_status(status, found, after(minutes=5))
    assert ended.stage(Stage.PREPARE).state is StageState.FAILED
    assert ended.failure is not None
    assert (ended.failure.retried, ended.failure.exit_code) == (False, 69)
    assert ended.failure.message == "Cannot reach the hub. Gave up after 2 attempts in 5m00s."


def test_another_failure_or_a_new_checkpoint_starts_the_time_again() -> None:
    assert outage_of(unreachable(1, 0), unreachable(3, 400)).since == after(seconds=400)
    assert outage_of(unreachable(1, 0), unreachable(2, 400, step=10)).since == after(seconds=400)


def test_next_attempt_starts_when_it_is_due() -> None:
    status = unreachable(1, 0)
    found = outage_of(status)
    assert next_status(status, found, after(seconds=1)) == status
    assert next_status(status, found, found.retry_at).failure is None


def test_an_endpoint_is_not_asked_before_it_allows() -> None:
    status = unreachable(1, 0, retry_after=to_text(after(minutes=2)))
    found = outage_of(status)
    assert (found.retry_at, found.delay, found.ends) == (after(minutes=2), timedelta(minutes=2), False)
    assert next_status(status, found, after(seconds=119)) == status
    assert next_status(status, found, after(minutes=2)).failure is None
    assert outage_of(unreachable(1, 0, retry_after=to_text(after(seconds=1)))).delay == timedelta(seconds=2)


def test_a_wait_beyond_the_limit_ends_the_run_at_once() -> None:
    status = unreachable(1, 0, retry_after=to_text(after(hours=1)))
    ended = next_status(status, outage_of(status), after(seconds=0))
    assert ended.failure is not None
    assert ended.failure.message == "Cannot reach the hub. Run the same command again then."
    assert not ended.failure.retried


def test_repeated_command_does_not_wait() -> None:
    """The plan would wait for minutes after so many attempts."""
    due = retried_now(unreachable(9, 0))
    assert (due.failure, due.stage(Stage.PREPARE).retry_time) == (None, None)
    assert outage_of(unreachable(9, 0)).delay == timedelta(seconds=2)


def test_outage_is_over_when_the_next_attempt_ends_in_another_way() -> None:
    found = outage_of(unreachable(1, 0))
    running = unreachable(2, 60)
    stage = running.stage(Stage.PREPARE)
    assert outage_after(retried_now(unreachable(1, 0)), found) is found
    alive = running.with_stage(stage.model_copy(update={"completion_time": None}))
    assert outage_after(alive, found) is found
    assert running.failure is not None
    killed = running.model_copy(update={"failure": running.failure.model_copy(update={"reason": Reason.KILLED})})
    assert outage_after(killed, found) is None
    done = running.with_stage(stage.model_copy(update={"state": StageState.SUCCEEDED}))
    assert outage_after(done.model_copy(update={"failure": None}), found) is None
