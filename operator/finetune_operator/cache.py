"""What is known of the cluster: fed by watches, by the answers to our own writes, and by a full look now and then.

Every object has a version that grows, so whatever arrives late or twice changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.job import Phase
from finetune_kube.objects import JobFacts, Key, PodFacts, job_facts, key_of, pod_facts, version_of

_METADATA = ("name", "namespace", "uid", "generation")


@dataclass(frozen=True, slots=True)
class Stored:
    """A FineTuneJob. It is kept as text, which is a tenth of the size of its objects."""

    key: Key
    uid: str
    version: int
    phase: str
    deleting: bool
    ended: bool
    text: bytes
    """The object as JSON, with the metadata that the product reads."""


class _Versioned(Protocol):
    @property
    def key(self) -> Key: ...
    @property
    def version(self) -> int: ...


Entry = TypeVar("Entry", bound=_Versioned)


class Store(Generic[Entry]):
    """Objects of one kind by namespace and name; a newer version takes the place of an older one."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def put(self, entry: Entry) -> bool:
        """Whether ``entry`` was news."""
        known = self._entries.get(entry.key)
        if known is not None and known.version >= entry.version:
            return False
        self._entries[entry.key] = entry
        return True

    def remove(self, key: Key, version: int) -> Entry | None:
        """Take out what is there, unless it is newer than ``version``."""
        known = self._entries.get(key)
        if known is None or known.version > version:
            return None
        return self._entries.pop(key)


class Cache:
    """FineTuneJobs, their child Jobs and pods."""

    def __init__(self) -> None:
        self.jobs: Store[Stored] = Store()
        self.children: Store[JobFacts] = Store()
        self.pods: Store[PodFacts] = Store()
        self._children_of: defaultdict[Key, set[Key]] = defaultdict(set)
        self._pods_of: defaultdict[Key, set[Key]] = defaultdict(set)
        self._phases: Counter[str] = Counter()

    def see(self, kind: str, found: Mapping[str, Any], deleted: bool = False) -> Key | None:
        """Take note of an object; the key of the FineTuneJob that it concerns, None when it is no news or not ours."""
        return {KIND: self._see_job, "Job": self._see_child, "Pod": self._see_pod}[kind](found, deleted)

    def forget_others(self, kind: str, present: Set[Key], version: int, namespace: str | None) -> set[Key]:
        """Forget what a list of ``version`` does not show; whom that concerns."""
        stores: dict[str, Store[Any]] = {KIND: self.jobs, "Job": self.children, "Pod": self.pods}
        concerned = set()
        for entry in stores[kind]:
            listed = namespace is None or entry.key[0] == namespace
            kept = isinstance(entry, PodFacts) and entry.gone
            if listed and not kept and entry.key not in present and entry.version <= version:
                concerned.add(self._forget(kind, entry, version))
        return concerned

    def runs_of(self, key: Key, uid: str) -> list[tuple[JobFacts, list[PodFacts]]]:
        """The child Jobs of a FineTuneJob, each with its pods, those that are gone among them."""
        children = [child for name in self._children_of.get(key, ()) if (child := self.children.get(name))]
        pods = [pod for name in self._pods_of.get(key, ()) if (pod := self.pods.get(name))]
        return [(child, [pod for pod in pods if child.has(pod)]) for child in children if child.owner_uid == uid]

    def awaits_child(self, key: Key) -> bool:
        """Whether a FineTuneJob has no child Job that goes on, as one whose next stage must be started."""
        job = self.jobs.get(key)
        if job is None or job.ended or job.deleting:
            return False
        return all(_is_over(child, pods) for child, pods in self.runs_of(key, job.uid))

    def phases(self) -> dict[str, int]:
        """How many FineTuneJobs are in each phase."""
        return {phase: self._phases[phase] for phase in Phase}

    def _see_job(self, found: Mapping[str, Any], deleted: bool) -> Key | None:
        known = self.jobs.get(key_of(found))
        if known and not deleted and known.version >= version_of(found):
            # Most often the watch's echo of the operator's own write.
            return None
        entry = stored(found)
        if deleted:
            return self._forget(KIND, entry, entry.version)
        if not self.jobs.put(entry):
            return None
        if known:
            self._phases[known.phase] -= 1
        self._phases[entry.phase] += 1
        return entry.key

    def _see_child(self, found: Mapping[str, Any], deleted: bool) -> Key | None:
        entry = job_facts(found)
        if entry is None:
            return None
        if deleted:
            return self._forget("Job", entry, entry.version)
        if not self.children.put(entry):
            return None
        self._children_of[entry.owner].add(entry.key)
        return entry.owner

    def _see_pod(self, found: Mapping[str, Any], deleted: bool) -> Key | None:
        entry = pod_facts(found, gone=deleted)
        if entry is None:
            return None
        if deleted and not self._has_child(entry.owner, entry.job_uid):
            self.pods.remove(entry.key, entry.version)
            self._drop(self._pods_of, entry.owner, entry.key)
            return None
        # Kubernetes takes the pods away that it stops, and with them what they said at their end: kept with their Job.
        if not self.pods.put(entry):
            return None
        self._pods_of[entry.owner].add(entry.key)
        return entry.owner

    def _forget(self, kind: str, entry: Any, version: int) -> Key:
        if kind == KIND:
            removed = self.jobs.remove(entry.key, version)
            if removed:
                self._phases[removed.phase] -= 1
            key: Key = entry.key
            return key
        if kind == "Pod":
            self.pods.put(replace(entry, gone=True, version=version))
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
    def _owner(entry: JobFacts | PodFacts) -> Key:
        return entry.owner

    @staticmethod
    def _drop(index: defaultdict[Key, set[Key]], owner: Key, name: Key) -> None:
        index[owner].discard(name)
        if not index[owner]:
            del index[owner]


def _is_over(child: JobFacts, pods: list[PodFacts]) -> bool:
    if child.complete or child.failed:
        return True
    # The Job controller says so of the Job a second after the pods.
    return len(pods) >= child.workers and all(pod.finished for pod in pods)


def stored(found: Mapping[str, Any]) -> Stored:
    """A FineTuneJob as it is kept."""
    metadata, status = found["metadata"], found.get("status") or {}
    document = {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "metadata": {name: metadata[name] for name in _METADATA if name in metadata},
        "spec": found.get("spec") or {},
        "status": status,
    }
    return Stored(
        key=key_of(found),
        uid=metadata["uid"],
        version=version_of(found),
        phase=status.get("phase", Phase.PENDING),
        deleting="deletionTimestamp" in metadata,
        ended="completionTime" in status,
        text=json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="replace"),
    )
