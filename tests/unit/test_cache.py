"""The cache is correct for any order and repetition of events."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.base import KIND
from finetune_api.job import FineTuneJob
from finetune_api.stage import Stage
from finetune_core.times import to_text
from finetune_kube.objects import ChildJob, ChildPod, Key, key_of
from finetune_operator.cache import Cache
from tests.builders import NOON, an_evaluation
from tests.kube_objects import a_child, a_fine_tune_job, a_pod, ended, running, success, true

KEY = ("team-a", "intents")


def runs(cache: Cache, uid: str = "uid-1") -> list[tuple[ChildJob, list[ChildPod]]]:
    return cache.runs_of(KEY, uid)


def resync(cache: Cache, kind: str, obj: list[dict[str, Any]], version: int, namespace: str | None = None) -> set[Key]:
    """Resync one kind; returns the FineTuneJobs to reconcile."""
    affected = {key for item in obj if (key := cache.update(kind, item))}
    return affected | cache.remove_missing(kind, {key_of(item) for item in obj}, version, namespace)


class TestFineTuneJob:
    def test_is_cached_when_first_observed(self) -> None:
        cache = Cache()
        assert cache.update(KIND, a_fine_tune_job()) == KEY
        cached = cache.jobs.get(KEY)
        assert cached is not None
        assert FineTuneJob.model_validate_json(cached.text).metadata.name == "intents"

    def test_same_or_older_version_does_not_trigger_a_reconcile(self) -> None:
        cache = Cache()
        cache.update(KIND, a_fine_tune_job(version=5))
        assert cache.update(KIND, a_fine_tune_job(version=5)) is None
        assert cache.update(KIND, a_fine_tune_job(version=4)) is None
        assert cache.update(KIND, a_fine_tune_job(version=6)) == KEY

    def test_cached_copy_omits_unused_metadata(self) -> None:
        obj = a_fine_tune_job()
        obj["metadata"] |= {"managedFields": [{"f:spec": {}}], "annotations": {"kubectl": "x" * 1000}}
        cache = Cache()
        cache.update(KIND, obj)
        cached = cache.jobs.get(KEY)
        assert cached is not None
        assert b"kubectl" not in cached.text
        assert b"managedFields" not in cached.text

    def test_is_removed_when_deleted(self) -> None:
        cache = Cache()
        cache.update(KIND, a_fine_tune_job(version=5))
        assert cache.update(KIND, a_fine_tune_job(version=6), deleted=True) == KEY
        assert cache.jobs.get(KEY) is None

    def test_late_delete_event_does_not_remove_a_recreated_job(self) -> None:
        cache = Cache()
        cache.update(KIND, a_fine_tune_job(version=9, uid="new"))
        cache.update(KIND, a_fine_tune_job(version=6, uid="old"), deleted=True)
        cached = cache.jobs.get(KEY)
        assert cached is not None
        assert cached.uid == "new"

    def test_scores_of_evaluated_jobs_exist_until_they_are_deleted(self) -> None:
        evaluated = {"evaluation": an_evaluation().model_dump(mode="json", exclude_none=True)}
        evaluated["evaluation"]["metrics"][0]["teacher"] = 0.91
        cache = Cache()
        cache.update(KIND, a_fine_tune_job("a", version=1, status=evaluated))
        cache.update(KIND, a_fine_tune_job("b", version=2))
        assert list(cache.scores())[:3] == [
            ("team-a", "a", "accuracy", "baseline", 0.79),
            ("team-a", "a", "accuracy", "tuned", 0.84),
            ("team-a", "a", "accuracy", "teacher", 0.91),
        ]
        assert [side for *_, side, _ in cache.scores()].count("teacher") == 1
        assert {name for _, name, *_ in cache.scores()} == {"a"}
        cache.update(KIND, a_fine_tune_job("a", version=3), deleted=True)
        assert list(cache.scores()) == []

    def test_is_counted_by_phase(self) -> None:
        cache = Cache()
        cache.update(KIND, a_fine_tune_job("a", version=1))
        cache.update(KIND, a_fine_tune_job("b", version=2, status={"phase": "Training"}))
        cache.update(KIND, a_fine_tune_job("a", version=3, status={"phase": "Training"}))
        assert cache.phases()["Training"] == 2
        cache.update(KIND, a_fine_tune_job("b", version=4), deleted=True)
        phases = cache.phases()
        assert {phase: count for phase, count in phases.items() if count} == {"Training": 1}


class TestRuns:
    def test_are_child_jobs_with_their_pods(self) -> None:
        cache = Cache()
        child = a_child(workers=2)
        assert cache.update("Job", child) == KEY
        for index in (0, 1):
            assert cache.update("Pod", a_pod(child, index)) == KEY
        ((job, pods),) = runs(cache)
        assert job.uid == "job-uid"
        assert sorted(pod.index for pod in pods) == [0, 1]

    def test_include_a_pod_that_arrives_before_its_job(self) -> None:
        cache = Cache()
        cache.update("Pod", a_pod(a_child(), **running()))
        cache.update("Job", a_child())
        ((_, pods),) = runs(cache)
        assert len(pods) == 1

    def test_exclude_child_jobs_of_a_deleted_job_with_the_same_name(self) -> None:
        cache = Cache()
        cache.update("Job", a_child(owner_uid="old"))
        assert runs(cache, "new") == []

    def test_exclude_pods_of_a_deleted_child_job_with_the_same_name(self) -> None:
        cache = Cache()
        cache.update("Pod", a_pod(a_child(uid="old"), **ended(70)))
        cache.update("Job", a_child(uid="new"))
        ((_, pods),) = runs(cache)
        assert pods == []

    def test_keep_the_termination_message_of_a_deleted_pod(self) -> None:
        cache = Cache()
        child = a_child()
        cache.update("Job", child)
        assert cache.update("Pod", a_pod(child, version=7, **ended(0, success())), deleted=True) == KEY
        ((_, (pod,)),) = runs(cache)
        assert pod.deleted
        assert pod.terminated is not None
        assert pod.terminated.message == success()

    def test_late_event_does_not_restore_a_deleted_pod(self) -> None:
        cache = Cache()
        child = a_child()
        cache.update("Job", child)
        cache.update("Pod", a_pod(child, version=7, **ended(0)), deleted=True)
        assert cache.update("Pod", a_pod(child, version=6, **running())) is None
        ((_, (pod,)),) = runs(cache)
        assert pod.deleted

    def test_deleting_the_child_job_removes_its_pods(self) -> None:
        cache = Cache()
        child = a_child()
        cache.update("Job", child)
        cache.update("Pod", a_pod(child, version=2))
        assert cache.update("Job", a_child(version=3), deleted=True) == KEY
        assert (runs(cache), len(cache.pods), len(cache.children)) == ([], 0, 0)
        assert cache.update("Pod", a_pod(child, version=4), deleted=True) is None
        assert len(cache.pods) == 0

    def test_unlabelled_objects_are_ignored(self) -> None:
        cache = Cache()
        stranger = a_child(metadata={"labels": {}})
        assert cache.update("Job", stranger) is None
        assert cache.update("Pod", a_pod({**stranger, "metadata": {**stranger["metadata"], "labels": {}}})) is None


class TestNeedsChild:
    """Jobs for which a run has to be started; they are reconciled first."""

    def needs(self, *objects: tuple[str, dict[str, Any]], **job: Any) -> bool:
        cache = Cache()
        cache.update(KIND, a_fine_tune_job(**job))
        for kind, obj in objects:
            cache.update(kind, obj)
        return cache.needs_child(KEY)

    def test_job_without_child(self) -> None:
        assert self.needs()
        assert self.needs(("Job", a_child(owner_uid="old")))

    def test_not_while_the_child_is_active(self) -> None:
        child = a_child(workers=2)
        assert not self.needs(("Job", child))
        assert not self.needs(("Job", child), ("Pod", a_pod(child, 0, **running())))
        assert not self.needs(("Job", child), ("Pod", a_pod(child, 0, **ended(0))))
        both = [("Pod", a_pod(child, 0, **ended(0))), ("Pod", a_pod(child, 1, **running()))]
        assert not self.needs(("Job", child), *both)

    @pytest.mark.parametrize("condition", ["Complete", "Failed"])
    def test_after_the_child_has_finished(self, condition: str) -> None:
        over, goes_on = a_child(conditions=[true(condition)]), a_child(Stage.TRAIN, 2, uid="next-uid")
        assert self.needs(("Job", over))
        assert not self.needs(("Job", over), ("Job", goes_on))

    def test_after_all_pods_have_finished_before_the_job_condition(self) -> None:
        child = a_child(workers=2)
        pods = [("Pod", a_pod(child, 0, **ended(0))), ("Pod", a_pod(child, 1, **ended(70)))]
        assert self.needs(("Job", child), *pods)

    def test_not_if_finished_deleting_or_unknown(self) -> None:
        assert not self.needs(status={"completionTime": to_text(NOON)})
        deleted = a_fine_tune_job()
        assert not self.needs(metadata={**deleted["metadata"], "deletionTimestamp": to_text(NOON)})
        assert not Cache().needs_child(KEY)


class TestResync:
    def test_removes_objects_missing_from_the_list(self) -> None:
        cache = Cache()
        cache.update(KIND, a_fine_tune_job("deleted", version=3))
        cache.update(KIND, a_fine_tune_job("there", version=4))
        affected = resync(cache, KIND, [a_fine_tune_job("there", version=4)], 10)
        assert affected == {("team-a", "deleted")}
        assert [job.key[1] for job in cache.jobs] == ["there"]

    def test_keeps_objects_newer_than_the_list(self) -> None:
        cache = Cache()
        cache.update(KIND, a_fine_tune_job("new", version=11))
        assert resync(cache, KIND, [], 10) == set()
        assert len(cache.jobs) == 1

    def test_of_one_namespace_keeps_objects_of_others(self) -> None:
        cache = Cache()
        cache.update(KIND, a_fine_tune_job(version=3))
        resync(cache, KIND, [], 10, "team-b")
        assert len(cache.jobs) == 1
        resync(cache, KIND, [], 10, "team-a")
        assert len(cache.jobs) == 0

    def test_marks_a_missing_pod_as_deleted(self) -> None:
        cache = Cache()
        child = a_child()
        cache.update("Job", child)
        cache.update("Pod", a_pod(child, version=2, **running()))
        assert resync(cache, "Pod", [], 10) == {KEY}
        ((_, (pod,)),) = runs(cache)
        assert pod.deleted
        assert resync(cache, "Pod", [], 11) == set()

    def test_missing_child_job_triggers_a_reconcile_of_its_owner(self) -> None:
        cache = Cache()
        cache.update("Job", a_child(version=2))
        assert resync(cache, "Job", [], 10) == {KEY}
        assert runs(cache) == []

    def test_without_changes_triggers_no_reconcile(self) -> None:
        cache = Cache()
        everything = [a_fine_tune_job(name, version=number) for number, name in enumerate("abc", 1)]
        assert len(resync(cache, KIND, everything, 10)) == 3
        assert resync(cache, KIND, everything, 12) == set()


@given(order=st.randoms(use_true_random=False), last=st.booleans())
def test_latest_version_wins_in_any_order_of_events(order: random.Random, last: bool) -> None:
    """Each event arrives twice and in any order; a deletion has the latest version."""
    child = a_child()
    events: list[tuple[str, dict[str, Any], bool]] = [
        ("Pod", a_pod(child, version=version, phase="Running"), False) for version in (2, 3, 4)
    ]
    events.append(("Pod", a_pod(child, version=9, **ended(0)), last))
    events *= 2
    order.shuffle(events)
    cache = Cache()
    cache.update("Job", child)
    for kind, obj, deleted in events:
        cache.update(kind, obj, deleted)
    ((_, (pod,)),) = runs(cache)
    assert (pod.version, pod.phase, pod.deleted) == (9, "Succeeded", last)


@pytest.mark.parametrize("kind", [KIND, "Job", "Pod"])
def test_delete_event_of_an_unknown_object_leaves_no_entry(kind: str) -> None:
    child = a_child()
    obj = {KIND: a_fine_tune_job(), "Job": child, "Pod": a_pod(child)}[kind]
    cache = Cache()
    cache.update(kind, obj, deleted=True)
    assert (len(cache.jobs), len(cache.children), len(cache.pods)) == (0, 0, 0)
    assert runs(cache) == []
