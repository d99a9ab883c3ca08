"""A team on the cluster: a namespace that enforces the restricted Pod Security Standard, and actions in it."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.apiserver.api import APPLY, Api, Refused
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import condition, stage
from tests.cluster import control
from tests.cluster.node import node_of
from tests.cluster.services import BUCKETS, CREDENTIALS

STAGE_TIMEOUT_SECONDS = 600
"""The timeout for a stage on two cores that several jobs share."""
_POLL_SECONDS = 0.5
"""The polling interval. With dozens of waits, shorter intervals would cost the API server a fifth of a core."""
INPUTS, OUTPUT = "inputs", "adapters"
"""The buckets."""
JOB_LABEL, STAGE_LABEL = "finetune.dev/job", "finetune.dev/stage"
FINISHED = ("Succeeded", "Failed")
_RETRIED_CODES = (429, 503)
"""The status codes of an API server that is still filling its caches after a start."""

Object = dict[str, Any]


def classification(**sections: Mapping[str, Any]) -> Object:
    """A spec with the tiny encoder on CPUs. By default it trains for seconds."""
    return _spec("bert", "TextClassification", "sentences", sections)


def instruction(**sections: Mapping[str, Any]) -> Object:
    """A spec with the tiny causal model."""
    return _spec("llama", "InstructionTuning", "questions", sections)


def default_limits(**resources: str) -> Object:
    """The spec of a LimitRange with these default limits for each container."""
    return {"limits": [{"type": "Container", "default": resources}]}


SLOW_CPU = default_limits(memory="3Gi", cpu="400m")
"""For trainings that must last: they leave the cores to others and do not finish too early."""


def _spec(model: str, task: str, data: str, sections: Mapping[str, Mapping[str, Any]]) -> Object:
    credentials = {"secretRef": {"name": "s3"}}
    spec: Object = {
        "model": {"uri": f"s3://{INPUTS}/{model}", **credentials},
        "task": {"type": task},
        "dataset": {"train": {"uri": f"s3://{INPUTS}/{data}.jsonl", **credentials}},
        "method": {"type": "LoRA", "lora": {"rank": 4, "dropout": 0.0}},
        "training": {"maxSteps": 40, "batchSize": 16, "learningRate": 5e-3, "checkpoint": {"everySteps": 10}},
        "distributed": {"workers": 2, "gpusPerWorker": 0, "zero": {"stage": 2}},
        "output": {"uri": f"s3://{OUTPUT}", **credentials},
    }
    spec["evaluation"] = {"publishWorse": True}
    if task == "InstructionTuning":
        spec["evaluation"]["generation"] = {"maxNewTokens": 8}
    for name, section in sections.items():
        spec[name] = {**spec.get(name, {}), **section} if isinstance(section, Mapping) else section
    return spec


class Tenant:
    """A namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.api: Api = control.api()

    def create(self) -> Tenant:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.api.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}}, "team"
        )
        self.secret("s3", CREDENTIALS)
        self.limit("LimitRange", default_limits(memory="3Gi"))
        return self

    def secret(self, name: str, values: Mapping[str, str]) -> None:
        metadata = {"name": name, "namespace": self.name}
        self.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(values)}, "team")

    def limit(self, kind: str, spec: Mapping[str, Any]) -> None:
        """Replace the namespace's ResourceQuota or LimitRange."""
        path = f"/api/v1/namespaces/{self.name}/{kind.lower()}s/limit"
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "limit"}, "spec": spec}
        self.api.request("PATCH", path, body, APPLY, {"fieldManager": "team"})

    def clean_up(self) -> None:
        """Delete all jobs and the namespace, without waiting for their pods to end."""
        self.delete_jobs()
        self.api.delete("Namespace", self.name)

    def delete_jobs(self) -> None:
        for job in self.api.list("FineTuneJob", self.name):
            self.api.delete("FineTuneJob", job["metadata"]["name"], self.name)

    def delete(self) -> None:
        """Delete the namespace and wait until it is gone."""
        self.api.delete("Namespace", self.name)
        wait_until(
            lambda: self.api.find("Namespace", self.name) is None,
            f"namespace {self.name} is gone",
            STAGE_TIMEOUT_SECONDS,
            0.5,
        )

    def apply(self, name: str, spec: Mapping[str, Any]) -> Object:
        return self.api.apply(
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": name, "namespace": self.name},
                "spec": dict(spec),
            }
        )

    def change(self, name: str, **spec: Any) -> None:
        """Patch the spec of a job."""
        self.api.merge("FineTuneJob", name, self.name, {"spec": spec})

    def status(self, name: str) -> Object:
        found = self.api.find("FineTuneJob", name, self.name)
        return dict((found or {}).get("status", {}))

    def until(
        self, name: str, predicate: Callable[[Object], Any], what: str, seconds: float = STAGE_TIMEOUT_SECONDS
    ) -> Object:
        """Wait until ``predicate`` is true for the job's status, and return it. Fail at once if the job ends before."""
        last: Object = {}

        def check() -> bool:
            nonlocal last
            try:
                last = self.status(name)
            except Refused as error:
                if error.code in _RETRIED_CODES:
                    return False
                raise
            found = bool(last) and bool(predicate(last))
            if not found and last.get("phase") in FINISHED:
                raise AssertionError(f"the job ended before this condition was met: {what}")
            return found

        try:
            wait_until(check, what, seconds, _POLL_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{self.name}/{name}: {error}; last status: {json.dumps(last, indent=1)}") from None
        return last

    def until_finished(self, name: str, seconds: float = STAGE_TIMEOUT_SECONDS) -> Object:
        """Wait until the job has ended, and return its status."""
        return self.until(name, lambda status: status.get("phase") in FINISHED, "the job ends", seconds)

    def until_succeeded(self, name: str, seconds: float = STAGE_TIMEOUT_SECONDS) -> Object:
        return self._until_ends_in("Succeeded", name, seconds)

    def until_failed(self, name: str) -> Object:
        return self._until_ends_in("Failed", name, STAGE_TIMEOUT_SECONDS)

    def _until_ends_in(self, phase: str, name: str, seconds: float) -> Object:
        status = self.until_finished(name, seconds)
        assert status["phase"] == phase, f"{self.name}/{name}: {json.dumps(status, indent=1)}"
        return status

    def until_trained(self, name: str) -> Object:
        """Wait until training has succeeded, delete the job to skip its later stages, and return its status."""
        status = self.until(
            name,
            lambda status: stage(status, "train")["state"] in FINISHED,
            "the stage train ends",
            STAGE_TIMEOUT_SECONDS,
        )
        assert stage(status, "train")["state"] == "Succeeded", json.dumps(status.get("failure"), indent=1)
        self.api.delete("FineTuneJob", name, self.name)
        return status

    def until_step(self, name: str, step: int) -> Object:
        """Wait until the status shows that training has reached ``step``, and return the status."""
        return self.until(name, lambda status: training_step(status) >= step, f"training reaches step {step}")

    def until_reported_step(self, name: str, step: int) -> int:
        """Wait until worker 0 reports ``step`` in its metrics, which are ahead of the status; return its step."""

        def find() -> int:
            # A pod that is being deleted may have no network: the request would hang and miss the next pod.
            pods = [pod for pod in self.pods(name, "train") if _is_worker(pod, 0)]
            reached = max((reported_step(pod) for pod in pods), default=0)
            if not pods and (status := self.status(name)).get("phase") in FINISHED:
                raise AssertionError(f"{self.name}/{name} ended before step {step}: {json.dumps(status, indent=1)}")
            return reached if reached >= step else 0

        return int(wait_until(find, f"{name} reaches step {step}", STAGE_TIMEOUT_SECONDS, 0.2))

    def until_checkpoint(self, name: str, step: int = 1) -> Object:
        """Wait for a complete checkpoint of ``step`` or later, and return the status."""
        return self.until(
            name, lambda status: status.get("checkpoint", {}).get("step", 0) >= step, f"a checkpoint of step {step}"
        )

    def jobs(self, name: str) -> list[Object]:
        """The child Jobs of a FineTuneJob."""
        return self.api.list("Job", self.name, labelSelector=f"{JOB_LABEL}={name}")

    def pods(self, name: str, stage: str | None = None) -> list[Object]:
        selector = f"{JOB_LABEL}={name}" + (f",{STAGE_LABEL}={stage}" if stage else "")
        return self.api.list("Pod", self.name, labelSelector=selector)

    def worker(self, name: str, index: int, stage: str = "train") -> Object:
        """Wait until the pod of a worker runs, and return it."""

        def find() -> Object | None:
            return next((pod for pod in self.pods(name, stage) if _is_worker(pod, index)), None)

        return dict(wait_until(find, f"worker {index} of {name} runs", STAGE_TIMEOUT_SECONDS, 0.2))

    def delete_pod(self, pod: Object, seconds: int = 0) -> None:
        self.api.delete("Pod", pod["metadata"]["name"], self.name, gracePeriodSeconds=seconds)

    def events(self, name: str) -> list[Object]:
        selector = f"involvedObject.kind=FineTuneJob,involvedObject.name={name}"
        return self.api.list("Event", self.name, fieldSelector=selector)

    def is_clean(self) -> bool:
        """Whether the namespace contains no pod, Job or Service."""
        return not any(self.api.list(kind, self.name) for kind in ("Pod", "Job", "Service"))

    def revision(self, name: str, revision: int = 1) -> Path:
        """The directory of a revision in storage."""
        return BUCKETS / OUTPUT / self.name / name / f"r{revision}"

    def curve(self, name: str) -> list[Object]:
        """The training curve of a trained job."""
        history = json.loads((self.revision(name) / "trained" / "history.json").read_text())
        return list(history["train"])

    def steps_of_checkpoint(self, name: str, step: int) -> list[int]:
        """The steps whose losses are in a checkpoint, in order."""
        state = self.revision(name) / "checkpoints" / f"step-{step:08d}" / "trainer_state.json"
        return [entry["step"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


def _is_worker(pod: Object, index: int) -> bool:
    """Whether a pod is the running worker with this index, and is not being deleted."""
    mine = pod["metadata"]["annotations"].get("batch.kubernetes.io/job-completion-index") == str(index)
    return mine and pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]


def training_step(status: Mapping[str, Any]) -> int:
    """The step in ``status.progress``; 0 before training."""
    found = re.match(r"train (\d+)/", (status.get("progress") or {}).get("text", ""))
    return int(found[1]) if found else 0


def reported_step(pod: Object) -> int:
    """The step in the metrics of a pod of worker 0; 0 if it does not respond."""
    url = f"http://{pod['status']['podIP']}:9400/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            page = response.read().decode()
    except OSError:
        return 0
    found = re.search(r"^finetune_train_step (\S+)", page, flags=re.MULTILINE)
    return int(float(found[1])) if found else 0


def condition_message(status: Mapping[str, Any], type_: str = "Ready") -> str:
    """The message of a condition."""
    return str(condition(status, type_)["message"])


def ranks(pod: Object) -> list[int]:
    """The process ids, on this machine, of the training processes in a pod."""
    identity = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    main = node_of(pod).task(identity)
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    return [int(child) for child in children if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
