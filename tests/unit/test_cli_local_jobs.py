"""Which directory belongs to a manifest, and which local job an argument names."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.job import FineTuneJob
from finetune_cli.local import LocalError, StateDirectory
from finetune_cli.local.jobs import find, is_path, known_job, local_jobs, manifest_path, moved_note, state_path
from tests.builders import a_job


def run(root: Path, manifest: Path, job: FineTuneJob) -> Path:
    """What `finetune run` leaves of a job that it did not finish."""
    source = manifest_path(str(manifest))
    with StateDirectory.locked(state_path(root, job, source)) as state:
        state.record_manifest(source)
        state.save(job)
        return state.path


def test_jobs_of_the_same_name_in_two_manifests_have_a_state_each(tmp_path: Path) -> None:
    first = run(tmp_path / "home", tmp_path / "a" / "job.yaml", a_job())
    second = run(tmp_path / "home", tmp_path / "b" / "job.yaml", a_job(training={"epochs": 1}))
    assert first != second
    assert StateDirectory(first).load() == a_job()
    assert run(tmp_path / "home", tmp_path / "a" / ".." / "a" / "job.yaml", a_job()) == first


def test_state_of_an_earlier_version_belongs_to_the_manifest_with_its_spec(tmp_path: Path) -> None:
    earlier = tmp_path / "team-a" / "intents"
    with StateDirectory.locked(earlier) as state:
        state.save(a_job(generation=7))
    other = run(tmp_path, tmp_path / "other.yaml", a_job(training={"epochs": 1}))
    assert earlier.exists()
    mine = state_path(tmp_path, a_job(), manifest_path(str(tmp_path / "job.yaml")))
    assert mine != other
    stored = StateDirectory(mine).load()
    assert stored is not None
    assert (stored.metadata.generation, earlier.exists()) == (7, False)


def test_argument_is_a_manifest_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    run(home, Path("a.yaml"), a_job())
    assert [is_path(argument) for argument in ("a.yaml", "./a", "-", "intents")] == [True, True, True, False]
    assert find(home, "a.yaml", None, "intents").manifest == str(tmp_path / "a.yaml")
    assert find(home, "intents", "team-a", None).phase == "Stopped"
    for argument, namespace, name in (("b.yaml", None, None), ("intents", "team-b", None), ("a.yaml", None, "other")):
        with pytest.raises(LocalError, match="was run on this machine"):
            find(home, argument, namespace, name)
    run(home, Path("b.yaml"), a_job())
    with pytest.raises(LocalError, match=r"2 jobs on this machine are named intents: .*a\.yaml and .*b\.yaml; name"):
        find(home, "intents", None, None)


def test_running_job_and_unreadable_state_are_recognised(tmp_path: Path) -> None:
    path = run(tmp_path, tmp_path / "a.yaml", a_job())
    with StateDirectory.locked(path):
        (running,) = local_jobs(tmp_path)
        assert not isinstance(running, LocalError)
        assert (running.running, running.phase) == (True, "Pending")
    (path / "job.json").write_text("{}")
    (broken,) = local_jobs(tmp_path)
    assert isinstance(broken, LocalError)


def test_a_moved_manifest_is_another_job_and_says_so(tmp_path: Path) -> None:
    old, new = (tmp_path / name / "job.yaml" for name in ("old", "new"))
    old.parent.mkdir()
    old.touch()
    run(tmp_path / "home", old, a_job())
    assert moved_note(tmp_path / "home", a_job(), str(new)) == (), "a job of the same name in another folder"
    assert known_job(tmp_path / "home", a_job(), str(new)) is None
    old.parent.rename(new.parent)
    (one,) = local_jobs(tmp_path / "home")
    assert not isinstance(one, LocalError)
    assert one.is_gone
    assert moved_note(tmp_path / "home", a_job(), str(new)) == (
        f"A job of this name was run from {old}, which no longer exists. If the manifest was moved, this is another "
        "job for finetune: its revisions start with 1.",
    )
    run(tmp_path / "home", new, a_job())
    assert known_job(tmp_path / "home", a_job(), str(new)) is not None
    assert moved_note(tmp_path / "home", a_job(), str(new)) == (), "it has runs of its own"


def test_a_manifest_from_standard_input_is_never_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "home", Path("-"), a_job())
    (one,) = local_jobs(tmp_path / "home")
    assert not isinstance(one, LocalError)
    assert not one.is_gone
