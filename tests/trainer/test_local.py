"""The local executor with real processes that implement the contract of a stage."""

from __future__ import annotations

import asyncio
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
from typing import Any

import pytest

from finetune_api.failures import ExitCode, Reason
from finetune_api.job import FineTuneJob, Phase, StageState
from finetune_api.stage import STAGES, Device, Stage, StageConfig
from finetune_cli.local import Executor, LocalError, Machine, Snapshot, StateDirectory
from finetune_cli.local.errors import cannot_write
from finetune_core.runs import RunId
from tests.apiserver.control_plane import wait_until
from tests.builders import a_job, a_report, stage_status

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.stage_program")
MACHINE = Machine(gpus=1, cores=2)


@pytest.fixture(autouse=True)
def _stages_find_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "operator")]))
    monkeypatch.delenv("FAKE_STAGES", raising=False)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the behaviour of each attempt of a stage: ``stages(train=["crash", "done"])``."""
    return lambda **words: monkeypatch.setenv("FAKE_STAGES", json.dumps(words))


class Session:
    """One `finetune run`, with its snapshots and its result."""

    def __init__(self, home: Path, job: FineTuneJob, **options: Any) -> None:
        self.home = home
        self.wanted = job
        self.options = options
        self.shown: list[Snapshot] = []
        self.acts: list[tuple[Callable[[Snapshot], bool], Callable[[Executor], None]]] = []

    def when(self, condition: Callable[[Snapshot], bool], act: Callable[[Executor], None]) -> Session:
        """Call a function once, when a condition is first true; in the order of the calls."""
        self.acts.append((condition, act))
        return self

    def run(self) -> FineTuneJob:
        meta = self.wanted.metadata
        with StateDirectory.locked(self.home, meta.namespace, meta.name) as state:
            return asyncio.run(self._run(state))

    async def _run(self, state: StateDirectory) -> FineTuneJob:
        executor = Executor(
            state, self.wanted, self._see, **{"machine": MACHINE, "stage_command": COMMAND, **self.options}
        )
        self.executor = executor
        async with asyncio.timeout(60):
            return await executor.run()

    def _see(self, snapshot: Snapshot) -> None:
        self.shown.append(snapshot)
        if self.acts and self.acts[0][0](snapshot):
            self.acts.pop(0)[1](self.executor)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.shown[-1].notes


def works_in(stage: Stage) -> Callable[[Snapshot], bool]:
    """Whether a snapshot shows a stage that reports progress."""
    return lambda shown: bool(
        shown.run and shown.run.id.stage is stage and shown.run.progress and shown.run.progress.done
    )


def attempts(job: FineTuneJob) -> dict[str, int]:
    return {str(stage.name): stage.attempt for stage in job.status.stages}


def directory(home: Path, stage: Stage, attempt: int = 1, revision: int = 1) -> Path:
    return StateDirectory(home / "team-a" / "intents").run(RunId(revision, stage, attempt)).path


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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


class TestRepeatedCommand:
    def test_shows_the_result_at_once(self, tmp_path: Path) -> None:
        first = Session(tmp_path, a_job()).run()
        session = Session(tmp_path, a_job())
        assert session.run().status == first.status
        assert not any(shown.run for shown in session.shown)
        assert session.notes == ("This spec was run before; showing its result. Use --fresh to run it again.",)

    def test_with_a_changed_spec_starts_the_next_revision(self, tmp_path: Path) -> None:
        first = Session(tmp_path, a_job()).run()
        session = Session(tmp_path, a_job(training={"learningRate": 1e-3}))
        second = session.run()
        assert (second.status.revision, second.metadata.generation) == (2, 2)
        assert second.metadata.uid == first.metadata.uid
        assert second.status.history[0].artifact == first.status.artifact
        assert session.notes == ("The spec has changed; starting revision 2.",)

    def test_with_changed_data_starts_the_next_revision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Session(tmp_path, a_job()).run()
        monkeypatch.setenv("FAKE_INPUTS", "sha256:other")
        session = Session(tmp_path, a_job())
        job = session.run()
        assert (job.status.revision, attempts(job)["train"]) == (2, 1)
        assert session.notes == (
            "The data or the base model has changed since revision 1 prepared it; starting revision 2.",
        )

    def test_with_data_that_cannot_be_read_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Session(tmp_path, a_job()).run()
        monkeypatch.setenv("FAKE_INPUTS", "")
        session = Session(tmp_path, a_job())
        assert session.run().status.revision == 1
        assert session.notes[0] == "Cannot check whether the data has changed: The bucket does not answer."

    def test_with_files_of_this_machine_reads_them_only_if_they_were_touched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "train.jsonl").write_text("{}\n")
        wanted = a_job(model={"uri": data.as_uri()}, dataset={"train": {"uri": f"{data.as_uri()}/*.jsonl"}})
        Session(tmp_path / "home", wanted).run()
        monkeypatch.setenv("FAKE_INPUTS", "sha256:other")
        assert Session(tmp_path / "home", wanted).run().status.revision == 1
        (data / "train.jsonl").write_text("{}\n{}\n")
        assert Session(tmp_path / "home", wanted).run().status.revision == 2

    def test_with_the_spec_of_an_earlier_revision_returns_to_it(self, tmp_path: Path) -> None:
        first = Session(tmp_path, a_job()).run()
        Session(tmp_path, a_job(training={"learningRate": 1e-3})).run()
        session = Session(tmp_path, a_job())
        job = session.run()
        assert (job.status.revision, job.status.artifact) == (1, first.status.artifact)
        assert attempts(job) == {"prepare": 2, "train": 0, "evaluate": 2, "publish": 2}
        assert [record.revision for record in job.status.history] == [2]
        assert session.notes == ("The spec is that of revision 1 again; continuing with that revision.",)

    def test_fresh_starts_the_next_revision_of_the_same_spec(self, tmp_path: Path) -> None:
        Session(tmp_path, a_job()).run()
        assert Session(tmp_path, a_job(), fresh=True).run().status.revision == 2

    def test_after_a_failure_retries_the_failed_stage(self, tmp_path: Path, stages: Callable[..., None]) -> None:
        stages(train=["BadData", "done"])
        assert Session(tmp_path, a_job()).run().status.phase is Phase.FAILED
        session = Session(tmp_path, a_job())
        job = session.run()
        assert job.status.phase is Phase.SUCCEEDED
        assert (attempts(job)["prepare"], attempts(job)["train"], job.status.revision) == (1, 2, 1)
        assert session.notes == ("The last run failed in stage train; retrying that stage.",)

    def test_runs_again_if_the_artifact_was_deleted(self, tmp_path: Path) -> None:
        job = Session(tmp_path, a_job()).run()
        with StateDirectory.locked(tmp_path, "team-a", "intents") as state:
            assert job.status.artifact is not None
            artifact = job.status.artifact.model_copy(update={"uri": (tmp_path / "gone").as_uri()})
            state.save(job.model_copy(update={"status": job.status.model_copy(update={"artifact": artifact})}))
        session = Session(tmp_path, a_job())
        assert session.run().status.revision == 2
        assert "no longer exists" in session.notes[0]


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

        def wait_an_hour(_: Executor) -> None:
            nonlocal ahead
            ahead = timedelta(hours=1)

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


RUNNER = """
import asyncio, sys
from pathlib import Path
from tests.builders import a_job
from tests.trainer.test_local import COMMAND, MACHINE
from finetune_cli.local import Executor, StateDirectory

async def run(state):
    await Executor(state, a_job(), lambda shown: None, machine=MACHINE, stage_command=COMMAND).run()

with StateDirectory.locked(Path(sys.argv[1]), "team-a", "intents") as state:
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
            StateDirectory.locked(tmp_path, "team-a", "intents"),
            pytest.raises(LocalError, match=rf"already running on this machine \(process {os.getpid()}\)"),
            StateDirectory.locked(tmp_path, "team-a", "intents"),
        ):
            pass

    def test_that_is_not_writable_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with (
            pytest.raises(LocalError, match=r"Cannot write to .*set FINETUNE_HOME") as caught,
            StateDirectory.locked(tmp_path / "file", "team-a", "intents"),
        ):
            pass
        assert caught.value.exit_code is ExitCode.PERMISSION_DENIED

    def test_on_a_full_disk_is_one_sentence(self) -> None:
        error = cannot_write(Path("/state"), OSError(errno.ENOSPC, "No space left on device"))
        assert error.message.startswith("The disk of /state is full")
        assert error.exit_code is ExitCode.DOES_NOT_FIT

    def test_of_another_version_is_one_sentence(self, tmp_path: Path) -> None:
        with StateDirectory.locked(tmp_path, "team-a", "intents") as state:
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
