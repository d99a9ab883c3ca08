"""Which ended runs and finished jobs are deleted, and when."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJobStatus
from finetune_api.stage import Stage
from finetune_core.policies.retention import expires_at, obsolete
from finetune_core.policies.revision import trained_again
from finetune_core.times import to_text
from tests.builders import NOON, a_job, a_run, after, failed, run_id, succeeded
from tests.usual_stages import STAGES


class TestEndedRuns:
    def test_latest_three_attempts_are_kept(self) -> None:
        runs = [failed(Stage.TRAIN, Reason.KILLED, attempt=attempt) for attempt in range(1, 6)]
        assert obsolete(FineTuneJobStatus(revision=1), runs) == [run_id(Stage.TRAIN, 1), run_id(Stage.TRAIN, 2)]

    def test_attempts_are_counted_per_stage(self) -> None:
        runs = [succeeded(stage) for stage in STAGES]
        assert obsolete(FineTuneJobStatus(revision=1), runs) == []

    def test_runs_of_earlier_revisions_are_deleted(self) -> None:
        runs = [succeeded(Stage.TRAIN, revision=1), succeeded(Stage.TRAIN, revision=2)]
        assert obsolete(FineTuneJobStatus(revision=2), runs) == [run_id(Stage.TRAIN, revision=1)]

    def test_runs_of_an_unrecorded_later_revision_are_kept(self) -> None:
        assert obsolete(FineTuneJobStatus(revision=1), [succeeded(Stage.TRAIN, revision=2)]) == []

    def test_runs_of_a_later_revision_in_the_history_are_deleted(self) -> None:
        job = a_job()
        later = trained_again(trained_again(job.status, job.spec, NOON), job.spec, NOON)
        returned = FineTuneJobStatus(revision=1, history=trained_again(later, job.spec, NOON).history[1:])
        assert obsolete(returned, [succeeded(Stage.TRAIN, revision=2)]) == [run_id(Stage.TRAIN, revision=2)]

    def test_live_runs_are_never_deleted(self) -> None:
        runs = [a_run(Stage.TRAIN, attempt=1), a_run(Stage.TRAIN, revision=1, attempt=9)]
        assert obsolete(FineTuneJobStatus(revision=2), runs) == []


class TestExpiry:
    @staticmethod
    def ended(**resilience: Any) -> Any:
        status = FineTuneJobStatus(completion_time=to_text(NOON))
        return expires_at(a_job(status, resilience=resilience))

    def test_job_without_ttl_is_kept(self) -> None:
        assert self.ended() is None

    @pytest.mark.parametrize("seconds", [0, 60, 604800])
    def test_job_expires_after_its_ttl(self, seconds: int) -> None:
        assert self.ended(ttlSecondsAfterFinished=seconds) == after(seconds=seconds)

    def test_unfinished_job_is_kept(self) -> None:
        assert expires_at(a_job(resilience={"ttlSecondsAfterFinished": 0})) is None
