"""The local executor with real processes that implement the contract of a stage."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune_api.failures import ExitCode, Reason
from finetune_api.job import FailureStatus, Phase, StageState
from finetune_api.stage import Device, Stage, StageConfig
from finetune_cli.local import Executor, LocalError, Machine, Snapshot, StateDirectory, outage
from finetune_cli.local.errors import cannot_write
from finetune_cli.result import exit_code
from tests.apiserver.control_plane import wait_until
from tests.builders import a_job, a_report, stage_status
from tests.trainer.local_session import ROOT, Session, attempts, directory, is_running, works_in
from tests.usual_stages import STAGES

pytestmark = pytest.mark.usefixtures("stage_program")


class TestWholeJob:
    def test_passes_through_all_stages(self, tmp_path: Path) -> None:
        session = Session(tmp_path, a_job())
        job = session.run()
        assert job.status.phase is Phase.SUCCEEDED
        assert attempts(job) == dict.fromkeys(STAGES, 1)
        assert next(shown.run.id.stage for shown in session.shown if shown.run) is Stage.PREPARE

    def test_keeps_logs_and_deletes_workspaces(self, tmp_path: Path) -> None:
        Session(tmp_path, a_job()).run()
        train = directory(tmp_path, Stage.TRAIN)
        assert (train / "log.txt").read_text() == "train attempt 1\n"
        assert not (train / "workspace").exists()

    def test_gives_each_stage_its_local_config(self, tmp_path: Path) -> None:
        job = Session(tmp_path, a_job(distributed={"workers": 4}), machine=Machine(gpus=0, cores=2)).run()
        config = StageConfig.model_validate_json((directory(tmp_path, Stage.TRAIN) / "stage.json").read_bytes())
        assert (config.world.workers, config.world.processes_per_worker, config.world.device) == (1, 2, Device.CPU)
        assert (config.listen, config.job.uid) == ("127.0.0.1", job.metadata.uid)
        assert config.port != config.main_port

    def test_shows_progress(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["work", "done"])
        session = Session(tmp_path, a_job()).when(works_in(Stage.TRAIN), Executor.request_stop)
        session.run()
        progress = next(shown.job.status.progress for shown in session.shown if works_in(Stage.TRAIN)(shown))
        assert progress is not None
        assert (progress.loss, progress.tokens_per_second) == (1.0, 100.0)


class TestFailures:
    def test_crash_is_retried(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["crash", "done"])
        job = Session(tmp_path, a_job()).run()
        assert job.status.phase is Phase.SUCCEEDED
        assert (attempts(job)["train"], stage_status(job.status, Stage.TRAIN).restarts) == (2, 1)

    def test_unreachable_service_is_retried_uncounted(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(prepare=["Unavailable", "done"])
        job = Session(tmp_path, a_job(resilience={"maxRestarts": 0})).run()
        assert (attempts(job)["prepare"], stage_status(job.status, Stage.PREPARE).restarts) == (2, 0)
        assert job.status.phase is Phase.SUCCEEDED

    def test_service_that_stays_unreachable_ends_the_run_and_the_next_one_continues(
        self, tmp_path: Path, stages: Callable[..., None]
    ) -> None:
        stages(train=["Unavailable", "Unavailable", "done"])
        ahead = timedelta(0)

        def wait(_: Executor) -> None:
            nonlocal ahead
            ahead = outage.LIMIT

        def clock() -> datetime:
            return datetime.now(UTC) + ahead

        session = Session(tmp_path, a_job(), clock=clock)
        job = session.when(lambda shown: shown.outage is not None, wait).run()
        assert (job.status.phase, attempts(job)["train"], exit_code(job)) == (Phase.FAILED, 2, 69)
        assert job.status.failure is not None
        assert job.status.failure.message.startswith("met Unavailable. Gave up after 2 attempts in 5m")
        retried = {failure.attempt for shown in session.shown if (failure := announced_retry(shown))}
        assert retried == {1}
        again = Session(tmp_path, a_job(), clock=clock).run()
        assert (again.status.phase, again.status.revision, attempts(again)["prepare"]) == (Phase.SUCCEEDED, 1, 1)

    def test_stopped_stage_is_retried(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["Stopped", "done"])
        job = Session(tmp_path, a_job(resilience={"maxRestarts": 0})).run()
        assert (job.status.phase, attempts(job)["train"]) == (Phase.SUCCEEDED, 2)

    def test_bad_data_fails_the_job(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(prepare=["BadData"])
        job = Session(tmp_path, a_job()).run()
        assert job.status.phase is Phase.FAILED
        assert job.status.failure is not None
        assert (job.status.failure.exit_code, job.status.failure.message) == (65, "met BadData.")

    def test_stage_without_a_report_has_failed(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(prepare=["silent"])
        job = Session(tmp_path, a_job(resilience={"maxRestarts": 0})).run()
        assert job.status.failure is not None
        assert job.status.failure.reason is Reason.INTERNAL_ERROR

    def test_early_crash_quotes_the_log(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(prepare=["break"])
        job = Session(tmp_path, a_job(resilience={"maxRestarts": 0})).run()
        assert job.status.failure is not None
        assert job.status.failure.message.startswith(
            "prepare ended with exit code 1: ModuleNotFoundError: No module named 'torch'"
        )

    def test_stalled_stage_is_stopped_and_retried(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["hang", "done"])
        ahead = timedelta(0)

        def condition(shown: Snapshot) -> bool:
            return shown.run is not None and shown.run.id.stage is Stage.TRAIN and shown.run.progress is not None

        def wait_an_hour(executor: Executor) -> None:
            nonlocal ahead
            ahead = timedelta(hours=1)
            executor._wake.set()  # The loop, whose clock does not jump, would sleep until the time limit.

        session = Session(tmp_path, a_job(), clock=lambda: datetime.now(UTC) + ahead).when(condition, wait_an_hour)
        job = session.run()
        assert (job.status.phase, attempts(job)["train"]) == (Phase.SUCCEEDED, 2)
        reasons = {shown.job.status.failure.reason for shown in session.shown if shown.job.status.failure}
        assert reasons == {Reason.STALLED}

    def test_deadline_fails_the_job(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["work"])
        job = Session(tmp_path, a_job(resilience={"activeDeadlineSeconds": 3})).run()
        assert job.status.failure is not None
        assert job.status.failure.reason is Reason.DEADLINE_EXCEEDED

    def test_no_process_outlives_its_run(
        self, tmp_path: Path, stages: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_CHILD", str(tmp_path / "child"))
        stages(train=["leave-a-child"])
        Session(tmp_path / "home", a_job()).when(works_in(Stage.TRAIN), Executor.request_stop).run()
        child = int((tmp_path / "child").read_text())
        # It was killed; the kernel decides when it disappears.
        wait_until(lambda: not is_running(child), "its child has ended")


class TestStop:
    def test_stops_after_a_checkpoint_and_resumes_next_time(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["work", "done"])
        job = Session(tmp_path, a_job()).when(works_in(Stage.TRAIN), Executor.request_stop).run()
        assert job.status.phase is Phase.SUSPENDED
        assert job.status.failure is None
        assert job.status.checkpoint is not None
        again = Session(tmp_path, a_job()).run()
        assert again.status.phase is Phase.SUCCEEDED
        assert (attempts(again)["train"], again.status.revision) == (2, 1)
        assert stage_status(again.status, Stage.TRAIN).restarts == 0

    def test_duration_excludes_the_time_until_the_next_command(
        self, tmp_path: Path, stages: Callable[..., None]
    ) -> None:
        stages(train=["work", "done"])
        Session(tmp_path, a_job()).when(works_in(Stage.TRAIN), Executor.request_stop).run()
        job = Session(tmp_path, a_job(), clock=lambda: datetime.now(UTC) + timedelta(hours=1)).run()
        assert 3590 < stage_status(job.status, Stage.TRAIN).paused_seconds < 3700

    def test_second_request_kills(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["deaf"])
        session = Session(tmp_path, a_job())
        session.when(works_in(Stage.TRAIN), Executor.request_stop)
        session.when(lambda shown: shown.stopping, lambda executor: executor.request_stop(at_once=True))
        job = session.run()
        assert (job.status.phase, job.status.failure) == (Phase.SUSPENDED, None)

    def test_before_the_first_stage_started(self, tmp_path: Path) -> None:
        session = Session(tmp_path, a_job()).when(lambda _: True, Executor.request_stop)
        assert session.run().status.phase is Phase.SUSPENDED


def announced_retry(shown: Snapshot) -> FailureStatus | None:
    failure = shown.job.status.failure
    return failure if failure and failure.retried else None


RUNNER = """
import asyncio, sys
from pathlib import Path
from tests.builders import a_job
from tests.trainer.local_session import COMMAND, MACHINE
from finetune_cli.local import Executor, StateDirectory

async def run(state):
    await Executor(state, a_job(), lambda shown: None, machine=MACHINE, stage_command=COMMAND).run()

with StateDirectory.locked(Path(sys.argv[1], "team-a", "intents")) as state:
    asyncio.run(run(state))
"""


class TestAfterTheExecutorWasKilled:
    def run_and_kill(self, home: Path) -> int:
        """SIGKILL an executor while train runs; returns the pid of the train stage, which survives."""
        runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(home)], cwd=ROOT)
        record = directory(home, Stage.TRAIN) / "run.json"
        try:
            wait_for(lambda: record.exists() and (directory(home, Stage.TRAIN) / "log.txt").stat().st_size > 0)
        finally:
            runner.send_signal(signal.SIGKILL)
            runner.wait()
        return int(json.loads(record.read_text())["pid"])

    def test_orphaned_stage_is_stopped_and_the_job_continues(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["work", "done"])
        pid = self.run_and_kill(tmp_path)
        assert is_running(pid)
        session = Session(tmp_path, a_job())
        job = session.run()
        assert not is_running(pid)
        assert job.status.phase is Phase.SUCCEEDED
        assert attempts(job) == {"prepare": 1, "train": 2, "evaluate": 1, "publish": 1}
        assert stage_status(job.status, Stage.TRAIN).restarts == 0
        assert "left stage train running" in session.notes[0]

    def test_orphan_that_ignores_sigterm_is_killed_by_a_second_stop(
        self, tmp_path: Path, stages: Callable[..., None]
    ) -> None:
        stages(train=["deaf"])
        pid = self.run_and_kill(tmp_path)

        def twice(executor: Executor) -> None:
            executor.request_stop()
            executor.request_stop(at_once=True)

        job = Session(tmp_path, a_job()).when(lambda shown: bool(shown.notes), twice).run()
        assert not is_running(pid)
        assert job.status.phase is Phase.SUSPENDED

    def test_duration_excludes_the_time_after_a_crash_of_the_machine(
        self, tmp_path: Path, stages: Callable[..., None]
    ) -> None:
        stages(train=["work", "done"])
        pid = self.run_and_kill(tmp_path)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid))
        job = Session(tmp_path, a_job(), clock=lambda: datetime.now(UTC) + timedelta(hours=1)).run()
        assert job.status.phase is Phase.SUCCEEDED
        assert 3590 < stage_status(job.status, Stage.TRAIN).paused_seconds < 3700

    def test_stage_that_succeeded_meanwhile_is_not_repeated(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["work", "BadData"])
        pid = self.run_and_kill(tmp_path)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid))
        report = directory(tmp_path, Stage.TRAIN) / "termination.json"
        report.write_bytes(a_report(Stage.TRAIN).to_termination_message())
        job = Session(tmp_path, a_job()).run()
        assert job.status.phase is Phase.SUCCEEDED
        assert stage_status(job.status, Stage.TRAIN).state is StageState.SUCCEEDED


class TestStateDirectory:
    def test_is_locked_by_one_executor(self, tmp_path: Path) -> None:
        with (
            StateDirectory.locked(tmp_path / "team-a" / "intents"),
            pytest.raises(LocalError, match=rf"already running on this machine \(process {os.getpid()}\)"),
            StateDirectory.locked(tmp_path / "team-a" / "intents"),
        ):
            pass

    def test_that_is_not_writable_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with (
            pytest.raises(LocalError, match=r"Cannot write to .*set FINETUNE_HOME") as caught,
            StateDirectory.locked(tmp_path / "file" / "team-a" / "intents"),
        ):
            pass
        assert caught.value.exit_code is ExitCode.PERMISSION_DENIED

    def test_on_a_full_disk_is_one_sentence(self) -> None:
        error = cannot_write(Path("/state"), OSError(errno.ENOSPC, "No space left on device"))
        assert error.message.startswith("The disk of /state is full")
        assert error.exit_code is ExitCode.DOES_NOT_FIT

    def test_of_another_version_is_one_sentence(self, tmp_path: Path) -> None:
        with StateDirectory.locked(tmp_path / "team-a" / "intents") as state:
            (state.path / "job.json").write_text('{"kind": "FineTuneJob"}')
            with pytest.raises(LocalError, match="is not valid"):
                state.load()


def test_missing_stage_command(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="Cannot start /no/such/program"):
        Session(tmp_path, a_job(), stage_command=("/no/such/program",)).run()


def wait_for(happened: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
