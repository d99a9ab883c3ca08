"""What is taken away, and when."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.job import FineTuneJobStatus
from finetune_api.stage import Stage
from finetune_core.policies.retention import expires_at, obsolete
from finetune_core.times import to_text
from tests.builders import NOON, a_job, a_run, after, failed, run_id, succeeded


class TestEndedRuns:
    def test_of_the_newest_three_attempts_stay(self) -> None:
        runs = [failed(Stage.TRAIN, Reason.KILLED, attempt=attempt) for attempt in range(1, 6)]
        assert obsolete(1, runs) == [run_id(Stage.TRAIN, 1), run_id(Stage.TRAIN, 2)]

    def test_are_counted_for_each_stage(self) -> None:
        runs = [succeeded(stage) for stage in Stage]
        assert obsolete(1, runs) == []

    def test_of_former_revisions_go(self) -> None:
        runs = [succeeded(Stage.TRAIN, revision=1), succeeded(Stage.TRAIN, revision=2)]
        assert obsolete(2, runs) == [run_id(Stage.TRAIN, revision=1)]

    def test_of_a_revision_that_was_never_recorded_stay(self) -> None:
        assert obsolete(1, [succeeded(Stage.TRAIN, revision=2)]) == []

    def test_make_no_room_by_taking_what_runs(self) -> None:
        runs = [a_run(Stage.TRAIN, attempt=1), a_run(Stage.TRAIN, revision=1, attempt=9)]
        assert obsolete(2, runs) == []


class TestTheJob:
    @staticmethod
    def ended(**resilience: Any) -> Any:
        status = FineTuneJobStatus(completion_time=to_text(NOON))
        return expires_at(a_job(status, resilience=resilience))

    def test_stays_unless_it_says_otherwise(self) -> None:
        assert self.ended() is None

    @pytest.mark.parametrize("seconds", [0, 60, 604800])
    def test_goes_so_long_after_its_end(self, seconds: int) -> None:
        assert self.ended(ttlSecondsAfterFinished=seconds) == after(seconds=seconds)

    def test_stays_until_it_has_ended(self) -> None:
        assert expires_at(a_job(resilience={"ttlSecondsAfterFinished": 0})) is None
