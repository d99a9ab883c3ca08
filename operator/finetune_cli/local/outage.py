"""Ends a local run when a service stays unreachable.

On a cluster the operator keeps trying; a person at a terminal waits for an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.failures import Reason
from finetune_api.job import FailureStatus, FineTuneJobStatus, StageState, StageStatus
from finetune_api.stage import Stage
from finetune_api.text import duration
from finetune_core.policies import restart
from finetune_core.sentences import sentence
from finetune_core.status import current_stage
from finetune_core.times import from_text

LIMIT = timedelta(minutes=5)
"""How long the attempts of a stage may find a service unreachable."""

_LONGEST_DELAY = timedelta(seconds=30)


@dataclass(frozen=True)
class Outage:
    """Consecutive attempts of a stage that found a service unreachable."""

    stage: Stage
    attempt: int
    """The last of them."""
    attempts: int
    step: int
    """The newest checkpoint; a later one means that storage was reached."""
    since: datetime
    """End of the first of them."""
    delay: timedelta
    """Time between the end of the last attempt and the next one."""
    retry_at: datetime
    asked_for: bool
    """Whether the service asks for this time."""

    @property
    def ends(self) -> bool:
        """Whether no other attempt follows, because it would start after the limit."""
        return self.retry_at > self.since + LIMIT


def outage_after(status: FineTuneJobStatus, before: Outage | None) -> Outage | None:
    """The outage that ``status`` shows, or ``before`` until the next attempt has ended."""
    waiting = _waiting(status)
    if waiting is None:
        return before if before and _is_next(status, before) else None
    stage, failure = waiting
    if before and (before.stage, before.attempt) == (stage.name, stage.attempt):
        return before
    ended, step = from_text(stage.completion_time or ""), status.checkpoint.step if status.checkpoint else 0
    continues = before and (before.stage, before.attempt + 1, before.step) == (stage.name, stage.attempt, step)
    since, attempts = (before.since, before.attempts + 1) if before and continues else (ended, 1)
    delay = min(restart.delay(Reason.UNAVAILABLE, attempts, 0, chance=0), _LONGEST_DELAY)
    allowed = from_text(failure.retry_after) if failure.retry_after else ended
    asked_for = allowed > ended + delay
    due = allowed if asked_for else ended + delay
    return Outage(stage.name, stage.attempt, attempts, step, since, due - ended, due, asked_for)


def next_status(status: FineTuneJobStatus, outage: Outage | None, now: datetime) -> FineTuneJobStatus:
    """``status`` for the next plan: unchanged until the next attempt is due, and failed if none follows."""
    waiting = _waiting(status)
    if waiting is None or outage is None:
        return status
    stage, failure = waiting
    if outage.ends:
        tried = f"Gave up after {outage.attempts} attempts in {duration((now - outage.since).total_seconds())}."
        advice = "Run the same command again then." if outage.asked_for else tried
        message = f"{sentence(failure.message)} {advice}"
        failed = stage.model_copy(update={"state": StageState.FAILED, "message": message})
        ended = failure.model_copy(update={"message": message, "retried": False})
        return status.with_stage(failed).model_copy(update={"failure": ended})
    return retried_now(status) if now >= outage.retry_at else status


def retried_now(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """``status`` whose next attempt starts now, if it waits because a service was unreachable."""
    waiting = _waiting(status)
    if waiting is None:
        return status
    due = status.with_stage(waiting[0].model_copy(update={"retry_time": None}))
    return due.model_copy(update={"failure": None})


def _is_next(status: FineTuneJobStatus, outage: Outage) -> bool:
    """Whether the attempt after those of ``outage`` runs, or is about to start."""
    stage = current_stage(status)
    if stage is None or stage.name is not outage.stage:
        return False
    return stage.attempt == outage.attempt or (stage.attempt == outage.attempt + 1 and stage.completion_time is None)


def _waiting(status: FineTuneJobStatus) -> tuple[StageStatus, FailureStatus] | None:
    """The stage that waits for its next attempt because a service was unreachable, and its failure."""
    stage, failure = current_stage(status), status.failure
    if stage is None or failure is None or failure.reason is not Reason.UNAVAILABLE or not failure.retried:
        return None
    if stage.completion_time is None or (failure.stage, failure.attempt) != (stage.name, stage.attempt):
        return None
    return stage, failure
