"""A repeated `finetune run`: it shows the result, resumes, or starts the next revision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.job import Phase
from finetune_cli.local import StateDirectory
from tests.builders import a_job
from tests.trainer.local_session import Session, attempts

pytestmark = pytest.mark.usefixtures("stage_program")


def test_shows_the_result_at_once(tmp_path: Path) -> None:
    first = Session(tmp_path, a_job()).run()
    session = Session(tmp_path, a_job())
    assert session.run().status == first.status
    assert not any(shown.run for shown in session.shown)
    assert session.notes == ("This spec was run before; showing its result. Use --fresh to run it again.",)


def test_with_a_changed_spec_starts_the_next_revision(tmp_path: Path) -> None:
    first = Session(tmp_path, a_job()).run()
    session = Session(tmp_path, a_job(training={"learningRate": 1e-3}))
    second = session.run()
    assert (second.status.revision, second.metadata.generation) == (2, 2)
    assert second.metadata.uid == first.metadata.uid
    assert second.status.history[0].artifact == first.status.artifact
    assert session.notes == ("The spec has changed; starting revision 2.",)


def test_with_changed_data_starts_the_next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Session(tmp_path, a_job()).run()
    monkeypatch.setenv("FAKE_INPUTS", "sha256:other")
    session = Session(tmp_path, a_job())
    job = session.run()
    assert (job.status.revision, attempts(job)["train"]) == (2, 1)
    assert session.notes == (
        "The data or the base model has changed since revision 1 prepared it; starting revision 2.",
    )


def test_with_changed_task_files_evaluates_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_HARNESS", "sha256:one")
    first = Session(tmp_path, a_job()).run()
    monkeypatch.setenv("FAKE_HARNESS", "sha256:two")
    session = Session(tmp_path, a_job())
    job = session.run()
    assert (job.status.revision, attempts(job)["train"], attempts(job)["evaluate"]) == (2, 0, 1)
    assert job.status.training == first.status.training
    assert session.notes == (
        "The task files have changed since revision 1 was evaluated with them; starting revision 2.",
    )
    assert Session(tmp_path, a_job()).run().status == job.status


def test_with_data_that_cannot_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Session(tmp_path, a_job()).run()
    monkeypatch.setenv("FAKE_INPUTS", "")
    session = Session(tmp_path, a_job())
    assert session.run().status.revision == 1
    assert session.notes[0] == "Cannot check whether the data has changed: The bucket does not answer."


def test_with_files_of_this_machine_reads_them_only_if_they_were_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_with_the_spec_of_an_earlier_revision_returns_to_it(tmp_path: Path) -> None:
    first = Session(tmp_path, a_job()).run()
    Session(tmp_path, a_job(training={"learningRate": 1e-3})).run()
    session = Session(tmp_path, a_job())
    job = session.run()
    assert (job.status.revision, job.status.artifact) == (1, first.status.artifact)
    assert attempts(job) == {"prepare": 2, "train": 0, "evaluate": 2, "publish": 2}
    assert [record.revision for record in job.status.history] == [2]
    assert session.notes == ("The spec is that of revision 1 again; continuing with that revision.",)


def test_fresh_starts_the_next_revision_of_the_same_spec(tmp_path: Path) -> None:
    Session(tmp_path, a_job()).run()
    assert Session(tmp_path, a_job(), fresh=True).run().status.revision == 2


def test_after_a_failure_retries_the_failed_stage(tmp_path: Path, stages: Callable[..., None]) -> None:
    stages(train=["BadData", "done"])
    assert Session(tmp_path, a_job()).run().status.phase is Phase.FAILED
    session = Session(tmp_path, a_job())
    job = session.run()
    assert job.status.phase is Phase.SUCCEEDED
    assert (attempts(job)["prepare"], attempts(job)["train"], job.status.revision) == (1, 2, 1)
    assert session.notes == ("The last run failed in stage train; retrying that stage.",)


def test_says_why_the_next_revision_follows_in_the_middle(tmp_path: Path, stages: Callable[..., None]) -> None:
    stages(train_r1=["RevisionTaken"])
    session = Session(tmp_path, a_job())
    job = session.run()
    assert (job.status.phase, job.status.revision) == (Phase.SUCCEEDED, 2)
    assert session.notes == ("met RevisionTaken. Starting revision 2.",)


def test_runs_again_if_the_artifact_was_deleted(tmp_path: Path) -> None:
    job = Session(tmp_path, a_job()).run()
    with StateDirectory.locked(tmp_path / "team-a" / "intents") as state:
        assert job.status.artifact is not None
        artifact = job.status.artifact.model_copy(update={"uri": (tmp_path / "gone").as_uri()})
        state.save(job.model_copy(update={"status": job.status.model_copy(update={"artifact": artifact})}))
    session = Session(tmp_path, a_job())
    assert session.run().status.revision == 2
    assert "no longer exists" in session.notes[0]
