"""The informer cache: updated by watches, by the responses to the operator's own writes, and by the resync.

Resource versions grow, so an object that arrives late or twice does not change the cache.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.job import Phase
from finetune_kube.objects import ChildJob, ChildPod, Key, key_of, parse_job, parse_pod, version_of
from finetune_operator.metrics import Score

_METADATA = ("name", "namespace", "uid", "generation", "labels")


_NO_SCORE = "-"
_SIDES = ("baseline", "tuned", "teacher")


@dataclass(frozen=True, slots=True)
class CachedJob:
    """A FineTuneJob, kept as text: that needs a tenth of the memory of its objects."""

    key: Key
    uid: str
    version: int
    phase: str
    deleting: bool
    finished: bool
    scores: str
    """``metric baseline tuned teacher`` for each metric of the evaluation, separated by spaces; usually empty. No score
    is ``-``: of the baseline in metrics of rewards, and of the teacher without one."""
    text: bytes
    """The object as JSON, with the metadata fields that the operator reads."""


class _Versioned(Protocol):
    @property
    def key(self) -> Key: ...
    @property
    def version(self) -> int: ...


Entry = TypeVar("Entry", bound=_Versioned)


class Store(Generic[Entry]):
    """Objects of one kind by namespace and name; a newer version replaces an older one."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def put(self, entry: Entry) -> bool:
        """Store ``entry`` if it is newer; returns whether it is."""
        known = self._entries.get(entry.key)
        if known is not None and known.version >= entry.version:
            return False
        self._entries[entry.key] = entry
        return True

    def remove(self, key: Key, version: int) -> Entry | None:
        """Remove and return the entry, unless it is newer than ``version``."""
        known = self._entries.get(key)
        if known is None or known.version > version:
            return None
        return self._entries.pop(key)


class Cache:
    """FineTuneJobs with their child Jobs and pods."""

    def __init__(self) -> None:
        self.jobs: Store[CachedJob] = Store()
        self.children: Store[ChildJob] = Store()
        self.pods: Store[ChildPod] = Store()
        self._children_of: defaultdict[Key, set[Key]] = defaultdict(set)
        self._pods_of: defaultdict[Key, set[Key]] = defaultdict(set)
        self._phases: Counter[str] = Counter()

    def update(self, kind: str, obj: Mapping[str, Any], deleted: bool = False) -> Key | None:
        """Add, replace or remove an object.

        Returns the key of the FineTuneJob to reconcile; None if the object is not newer or not related to one.
        """
        return {KIND: self._update_job, "Job": self._update_child, "Pod": self._update_pod}[kind](obj, deleted)

    def remove_missing(self, kind: str, present: Set[Key], version: int, namespace: str | None) -> set[Key]:
        """Remove what a list of ``version`` does not contain; returns the keys of the FineTuneJobs to reconcile."""
        stores: dict[str, Store[Any]] = {KIND: self.jobs, "Job": self.children, "Pod": self.pods}
        affected = set()
        for entry in stores[kind]:
            listed = namespace is None or entry.key[0] == namespace
            kept = isinstance(entry, ChildPod) and entry.deleted
            if listed and not kept and entry.key not in present and entry.version <= version:
                affected.add(self._remove(kind, entry, version))
        return affected

    def runs_of(self, key: Key, uid: str) -> list[tuple[ChildJob, list[ChildPod]]]:
        """The child Jobs of a FineTuneJob, each with its pods, deleted pods included."""
        children = [child for name in self._children_of.get(key, ()) if (child := self.children.get(name))]
        pods = [pod for name in self._pods_of.get(key, ()) if (pod := self.pods.get(name))]
        return [(child, [pod for pod in pods if child.owns(pod)]) for child in children if child.owner_uid == uid]

    def needs_child(self, key: Key) -> bool:
        """Whether a FineTuneJob has no active child Job, so that its next stage has to be started."""
        job = self.jobs.get(key)
        if job is None or job.finished or job.deleting:
            return False
        return all(_is_finished(child, pods) for child, pods in self.runs_of(key, job.uid))

    def phases(self) -> dict[str, int]:
        """The number of FineTuneJobs in each phase."""
        return {phase: self._phases[phase] for phase in Phase}

    def scores(self) -> Iterator[Score]:
        """Every metric of every evaluated FineTuneJob."""
        for job in self.jobs:
            words = iter(job.scores.split())
            for metric, *scores in zip(words, *[words] * len(_SIDES), strict=True):
                for side, score in zip(_SIDES, scores, strict=True):
                    if score != _NO_SCORE:
                        yield (*job.key, metric, side, float(score))

    def _update_job(self, obj: Mapping[str, Any], deleted: bool) -> Key | None:
        known = self.jobs.get(key_of(obj))
        if known and not deleted and known.version >= version_of(obj):
            # Usually the watch event of the operator's own write.
            return None
        entry = cached_job(obj)
        if deleted:
            return self._remove(KIND, entry, entry.version)
        if not self.jobs.put(entry):
            return None
        if known:
            self._phases[known.phase] -= 1
        self._phases[entry.phase] += 1
        return entry.key

    def _update_child(self, obj: Mapping[str, Any], deleted: bool) -> Key | None:
        entry = parse_job(obj)
        if entry is None:
            return None
        if deleted:
            return self._remove("Job", entry, entry.version)
        if not self.children.put(entry):
            return None
        self._children_of[entry.owner].add(entry.key)
        return entry.owner

    def _update_pod(self, obj: Mapping[str, Any], deleted: bool) -> Key | None:
        entry = parse_pod(obj, deleted=deleted)
        if entry is None:
            return None
        if deleted and not self._has_child(entry.owner, entry.job_uid):
            self.pods.remove(entry.key, entry.version)
            self._drop(self._pods_of, entry.owner, entry.key)
            return None
        # Kubernetes deletes the pods that it stops, and their termination messages with them: so deleted pods are kept
        # as long as their Job.
        if not self.pods.put(entry):
            return None
        self._pods_of[entry.owner].add(entry.key)
        return entry.owner

    def _remove(self, kind: str, entry: Any, version: int) -> Key:
        if kind == KIND:
            removed = self.jobs.remove(entry.key, version)
            if removed:
                self._phases[removed.phase] -= 1
            key: Key = entry.key
            return key
        if kind == "Pod":
            self.pods.put(replace(entry, deleted=True, version=version))
            return self._owner(entry)
        if self.children.remove(entry.key, version):
            self._drop(self._children_of, entry.owner, entry.key)
            for name in tuple(self._pods_of.get(entry.owner, ())):
                pod = self.pods.get(name)
                if pod and pod.job_uid == entry.uid:
                    self.pods.remove(name, pod.version)
                    self._drop(self._pods_of, entry.owner, name)
        return self._owner(entry)

    def _has_child(self, owner: Key, uid: str) -> bool:
        children = (self.children.get(name) for name in self._children_of.get(owner, ()))
        return any(child.uid == uid for child in children if child)

    @staticmethod
    def _owner(entry: ChildJob | ChildPod) -> Key:
        return entry.owner

    @staticmethod
    def _drop(index: defaultdict[Key, set[Key]], owner: Key, name: Key) -> None:
        index[owner].discard(name)
        if not index[owner]:
            del index[owner]


def _is_finished(child: ChildJob, pods: list[ChildPod]) -> bool:
    if child.complete or child.failed:
        return True
    # The condition of the Job follows a second after its pods.
    return len(pods) >= child.workers and all(pod.finished for pod in pods)


def cached_job(obj: Mapping[str, Any]) -> CachedJob:
    """The cache entry of a FineTuneJob."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    document = {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "metadata": {name: metadata[name] for name in _METADATA if name in metadata},
        "spec": obj.get("spec") or {},
        "status": status,
    }
    return CachedJob(
        key=key_of(obj),
        uid=metadata["uid"],
        version=version_of(obj),
        phase=status.get("phase", Phase.PENDING),
        deleting="deletionTimestamp" in metadata,
        finished="completionTime" in status,
        scores=_scores(status),
        text=json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="replace"),
    )


def _scores(status: Mapping[str, Any]) -> str:
    """`CachedJob.scores`. The schema of the CRD has checked the types."""
    metrics = (status.get("evaluation") or {}).get("metrics") or ()
    rows = ((one["name"], *(one.get(side, _NO_SCORE) for side in _SIDES)) for one in metrics)
    return " ".join(str(word) for row in rows for word in row)
