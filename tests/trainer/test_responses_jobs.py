"""Jobs with a teacher behind an endpoint, as processes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import PrepareResult, Stage
from tests.endpoint_server import Endpoint, Reply, answer, endpoint, error
from tests.trainer.stages import TinyJob, instruction_job

ROWS = 120


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TinyJob:
    return instruction_job(tmp_path_factory.mktemp("job"), ROWS)


def taught(job: TinyJob, server: Endpoint, name: str, **endpoint: Any) -> TinyJob:
    """The job with a teacher, under another name."""
    teacher = {"endpoint": {"url": server.url, "model": "m", **endpoint}}
    changed = job.changed(distillation={"mode": "Responses", "teacher": teacher})
    return TinyJob(changed.root, changed.spec, name)


def stored(job: TinyJob) -> int:
    """Number of the answers in storage."""
    return sum(len(path.read_text().splitlines()) for path in (job.revision.parent / "answers").glob("*.jsonl"))


def test_a_prepare_that_is_killed_in_the_middle_asks_nothing_twice_that_was_stored(job: TinyJob) -> None:
    def slowly(*_: object) -> Reply:
        time.sleep(0.02)
        return answer("it is fruit")

    with endpoint(slowly) as server:
        killed = taught(job, server, "killed", maxConcurrency=2)
        with killed.start(Stage.PREPARE) as running:
            running.wait_until(lambda: stored(killed) > 20)
            (worker,) = running.worker_pids()
            os.kill(worker, signal.SIGKILL)
            outcome = running.wait()
        assert outcome.report.error
        assert outcome.report.error.reason is Reason.KILLED
        kept, asked = stored(killed), len(server.asked)
        assert 20 < kept < ROWS
        outcome = killed.run(Stage.PREPARE, attempt=2)
        assert outcome.code == ExitCode.DONE, outcome.log
        assert isinstance(outcome.report.result, PrepareResult)
        answers = outcome.report.result.responses
        assert answers
        assert answers.kept == kept
        assert len(server.asked) - asked == answers.requests == len(server.prompts()) - kept
        # What was under way when it was killed, and the answers of the last moment.
        assert sum(count - 1 for count in server.prompts().values()) == asked - kept


def test_progress_and_key(job: TinyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_SECRET_ENDPOINT_OPENAI_API_KEY", "of the Secret")
    monkeypatch.setenv("OPENAI_API_KEY", "of the environment")
    seen = []
    with endpoint(lambda *_: answer("it is fruit")) as server:
        held = taught(job, server, "progress", maxConcurrency=1)
        with held.start(Stage.PREPARE) as running:
            running.wait_until(
                lambda: (now := running.progress()) is not None and (seen.append(now) or now.unit == "prompts")
            )
            outcome = running.wait()
    assert outcome.code == ExitCode.DONE, outcome.log
    assert (seen[-1].activity, seen[-1].total) == ("asking the teacher", len(server.prompts()))
    assert set(server.keys) == {"Bearer of the Secret"}


@pytest.mark.parametrize(
    ("reply", "code"),
    [(error(401), ExitCode.PERMISSION_DENIED), (error(404), ExitCode.NOT_FOUND)],
    ids=["401", "404"],
)
def test_exit_codes(job: TinyJob, reply: Reply, code: ExitCode) -> None:
    with endpoint(lambda *_: reply) as server:
        outcome = taught(job, server, f"code-{code}").run(Stage.PREPARE)
    assert outcome.code == code, outcome.log
    assert not (job.root / "storage" / "team-a" / f"code-{code}" / "r1" / "prepared" / "manifest.json").exists()
