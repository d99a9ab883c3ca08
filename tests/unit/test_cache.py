"""What is known of the cluster, whatever order and however often it is told in."""

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
from finetune_kube.objects import JobFacts, Key, PodFacts, key_of
from finetune_operator.cache import Cache
from tests.builders import NOON
from tests.kube_objects import a_child, a_fine_tune_job, a_pod, ended, running, said, true

KEY = ("team-a", "intents")


def runs(cache: Cache, uid: str = "uid-1") -> list[tuple[JobFacts, list[PodFacts]]]:
    return cache.runs_of(KEY, uid)


def look(cache: Cache, kind: str, found: list[dict[str, Any]], version: int, namespace: str | None = None) -> set[Key]:
    """A full look at all objects of a kind; whom it concerns."""
    news = {key for item in found if (key := cache.see(kind, item))}
    return news | cache.forget_others(kind, {key_of(item) for item in found}, version, namespace)


class TestAJob:
    def test_is_known_once_it_is_seen(self) -> None:
        cache = Cache()
        assert cache.see(KIND, a_fine_tune_job()) == KEY
        stored = cache.jobs.get(KEY)
        assert stored is not None
        assert FineTuneJob.model_validate_json(stored.text).metadata.name == "intents"

    def test_seen_again_is_no_news(self) -> None:
        cache = Cache()
        cache.see(KIND, a_fine_tune_job(version=5))
        assert cache.see(KIND, a_fine_tune_job(version=5)) is None
        assert cache.see(KIND, a_fine_tune_job(version=4)) is None
        assert cache.see(KIND, a_fine_tune_job(version=6)) == KEY

    def test_is_kept_without_what_nobody_reads(self) -> None:
        found = a_fine_tune_job()
        found["metadata"] |= {"managedFields": [{"f:spec": {}}], "annotations": {"kubectl": "x" * 1000}}
        cache = Cache()
        cache.see(KIND, found)
        stored = cache.jobs.get(KEY)
        assert stored is not None
        assert b"kubectl" not in stored.text
        assert b"managedFields" not in stored.text

    def test_that_is_gone_is_forgotten(self) -> None:
        cache = Cache()
        cache.see(KIND, a_fine_tune_job(version=5))
        assert cache.see(KIND, a_fine_tune_job(version=6), deleted=True) == KEY
        assert cache.jobs.get(KEY) is None

    def test_made_anew_outlives_the_late_news_of_the_old_ones_end(self) -> None:
        cache = Cache()
        cache.see(KIND, a_fine_tune_job(version=9, uid="new"))
        cache.see(KIND, a_fine_tune_job(version=6, uid="old"), deleted=True)
        stored = cache.jobs.get(KEY)
        assert stored is not None
        assert stored.uid == "new"

    def test_is_counted_by_phase(self) -> None:
        cache = Cache()
        cache.see(KIND, a_fine_tune_job("a", version=1))
        cache.see(KIND, a_fine_tune_job("b", version=2, status={"phase": "Training"}))
        cache.see(KIND, a_fine_tune_job("a", version=3, status={"phase": "Training"}))
        assert cache.phases()["Training"] == 2
        cache.see(KIND, a_fine_tune_job("b", version=4), deleted=True)
        phases = cache.phases()
        assert {phase: count for phase, count in phases.items() if count} == {"Training": 1}


class TestItsRuns:
    def test_are_its_child_jobs_with_their_pods(self) -> None:
        cache = Cache()
        child = a_child(workers=2)
        assert cache.see("Job", child) == KEY
        for index in (0, 1):
            assert cache.see("Pod", a_pod(child, index)) == KEY
        ((facts, pods),) = runs(cache)
        assert facts.uid == "job-uid"
        assert sorted(pod.index for pod in pods) == [0, 1]

    def test_are_found_also_when_a_pod_is_seen_before_its_job(self) -> None:
        cache = Cache()
        cache.see("Pod", a_pod(a_child(), **running()))
        cache.see("Job", a_child())
        ((_, pods),) = runs(cache)
        assert len(pods) == 1

    def test_are_not_those_of_a_job_of_the_same_name_before_it(self) -> None:
        cache = Cache()
        cache.see("Job", a_child(owner_uid="old"))
        assert runs(cache, "new") == []

    def test_have_no_pods_of_a_job_of_the_same_name_before_them(self) -> None:
        cache = Cache()
        cache.see("Pod", a_pod(a_child(uid="old"), **ended(70)))
        cache.see("Job", a_child(uid="new"))
        ((_, pods),) = runs(cache)
        assert pods == []

    def test_keep_what_a_pod_said_that_is_gone(self) -> None:
        cache = Cache()
        child = a_child()
        cache.see("Job", child)
        assert cache.see("Pod", a_pod(child, version=7, **ended(0, said())), deleted=True) == KEY
        ((_, (pod,)),) = runs(cache)
        assert pod.gone
        assert pod.ended is not None
        assert pod.ended.message == said()

    def test_do_not_bring_a_pod_back_that_is_gone(self) -> None:
        cache = Cache()
        child = a_child()
        cache.see("Job", child)
        cache.see("Pod", a_pod(child, version=7, **ended(0)), deleted=True)
        assert cache.see("Pod", a_pod(child, version=6, **running())) is None
        ((_, (pod,)),) = runs(cache)
        assert pod.gone

    def test_go_with_their_job_and_leave_nothing(self) -> None:
        cache = Cache()
        child = a_child()
        cache.see("Job", child)
        cache.see("Pod", a_pod(child, version=2))
        assert cache.see("Job", a_child(version=3), deleted=True) == KEY
        assert (runs(cache), len(cache.pods), len(cache.children)) == ([], 0, 0)
        assert cache.see("Pod", a_pod(child, version=4), deleted=True) is None
        assert len(cache.pods) == 0

    def test_of_others_are_no_news(self) -> None:
        cache = Cache()
        stranger = a_child(metadata={"labels": {}})
        assert cache.see("Job", stranger) is None
        assert cache.see("Pod", a_pod({**stranger, "metadata": {**stranger["metadata"], "labels": {}}})) is None


class TestAwaitsAChild:
    """Whether something must be started for a job: such a job is looked at before the others."""

    def awaits(self, *seen: tuple[str, dict[str, Any]], **job: Any) -> bool:
        cache = Cache()
        cache.see(KIND, a_fine_tune_job(**job))
        for kind, found in seen:
            cache.see(kind, found)
        return cache.awaits_child(KEY)

    def test_a_job_that_has_none(self) -> None:
        assert self.awaits()
        assert self.awaits(("Job", a_child(owner_uid="old")))

    def test_not_one_whose_child_goes_on(self) -> None:
        child = a_child(workers=2)
        assert not self.awaits(("Job", child))
        assert not self.awaits(("Job", child), ("Pod", a_pod(child, 0, **running())))
        assert not self.awaits(("Job", child), ("Pod", a_pod(child, 0, **ended(0))))
        both = [("Pod", a_pod(child, 0, **ended(0))), ("Pod", a_pod(child, 1, **running()))]
        assert not self.awaits(("Job", child), *both)

    @pytest.mark.parametrize("condition", ["Complete", "Failed"])
    def test_one_whose_child_has_ended(self, condition: str) -> None:
        over, goes_on = a_child(conditions=[true(condition)]), a_child(Stage.TRAIN, 2, uid="next-uid")
        assert self.awaits(("Job", over))
        assert not self.awaits(("Job", over), ("Job", goes_on))

    def test_one_whose_pods_have_ended_before_their_job_says_so(self) -> None:
        child = a_child(workers=2)
        pods = [("Pod", a_pod(child, 0, **ended(0))), ("Pod", a_pod(child, 1, **ended(70)))]
        assert self.awaits(("Job", child), *pods)

    def test_not_one_that_has_ended_is_being_deleted_or_is_not_there(self) -> None:
        assert not self.awaits(status={"completionTime": to_text(NOON)})
        deleted = a_fine_tune_job()
        assert not self.awaits(metadata={**deleted["metadata"], "deletionTimestamp": to_text(NOON)})
        assert not Cache().awaits_child(KEY)


class TestAFullLook:
    def test_forgets_what_is_not_there(self) -> None:
        cache = Cache()
        cache.see(KIND, a_fine_tune_job("gone", version=3))
        cache.see(KIND, a_fine_tune_job("there", version=4))
        concerned = look(cache, KIND, [a_fine_tune_job("there", version=4)], 10)
        assert concerned == {("team-a", "gone")}
        assert [job.key[1] for job in cache.jobs] == ["there"]

    def test_keeps_what_is_newer_than_it(self) -> None:
        cache = Cache()
        cache.see(KIND, a_fine_tune_job("new", version=11))
        assert look(cache, KIND, [], 10) == set()
        assert len(cache.jobs) == 1

    def test_of_one_namespace_says_nothing_of_another(self) -> None:
        cache = Cache()
        cache.see(KIND, a_fine_tune_job(version=3))
        look(cache, KIND, [], 10, "team-b")
        assert len(cache.jobs) == 1
        look(cache, KIND, [], 10, "team-a")
        assert len(cache.jobs) == 0

    def test_of_a_pod_that_is_missing_says_that_it_is_gone(self) -> None:
        cache = Cache()
        child = a_child()
        cache.see("Job", child)
        cache.see("Pod", a_pod(child, version=2, **running()))
        assert look(cache, "Pod", [], 10) == {KEY}
        ((_, (pod,)),) = runs(cache)
        assert pod.gone
        assert look(cache, "Pod", [], 11) == set()

    def test_of_a_child_that_is_missing_concerns_its_job(self) -> None:
        cache = Cache()
        cache.see("Job", a_child(version=2))
        assert look(cache, "Job", [], 10) == {KEY}
        assert runs(cache) == []

    def test_that_shows_nothing_new_concerns_nobody(self) -> None:
        cache = Cache()
        everything = [a_fine_tune_job(name, version=number) for number, name in enumerate("abc", 1)]
        assert len(look(cache, KIND, everything, 10)) == 3
        assert look(cache, KIND, everything, 12) == set()


@given(order=st.randoms(use_true_random=False), last=st.booleans())
def test_the_newest_counts_in_whatever_order_it_is_told(order: random.Random, last: bool) -> None:
    """Every event comes twice, and in any order; a deletion is the newest of all."""
    child = a_child()
    told: list[tuple[str, dict[str, Any], bool]] = [
        ("Pod", a_pod(child, version=version, phase="Running"), False) for version in (2, 3, 4)
    ]
    told.append(("Pod", a_pod(child, version=9, **ended(0)), last))
    told *= 2
    order.shuffle(told)
    cache = Cache()
    cache.see("Job", child)
    for kind, found, deleted in told:
        cache.see(kind, found, deleted)
    ((_, (pod,)),) = runs(cache)
    assert (pod.version, pod.phase, pod.gone) == (9, "Succeeded", last)


@pytest.mark.parametrize("kind", [KIND, "Job", "Pod"])
def test_the_end_of_what_was_never_seen_leaves_nothing(kind: str) -> None:
    child = a_child()
    found = {KIND: a_fine_tune_job(), "Job": child, "Pod": a_pod(child)}[kind]
    cache = Cache()
    cache.see(kind, found, deleted=True)
    assert (len(cache.jobs), len(cache.children), len(cache.pods)) == (0, 0, 0)
    assert runs(cache) == []
