"""A team on the cluster: a namespace that enforces the restricted Pod Security Standard, and what it does there."""

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

PATIENCE_SECONDS = 600
"""What a stage may need on two cores that several jobs share."""
_EVERY_SECONDS = 0.5
"""Between two looks: with dozens of waits at a time, more of them would take the API server a fifth of a core."""
INPUTS, OUTPUT = "inputs", "adapters"
"""The buckets."""
JOB_LABEL, STAGE_LABEL = "finetune.dev/job", "finetune.dev/stage"
OVER = ("Succeeded", "Failed")
_NOT_NOW = (429, 503)
"""What an API server answers that has just been started and still fills its caches."""

Object = dict[str, Any]


def classification(**sections: Mapping[str, Any]) -> Object:
    """A spec on the tiny encoder, on CPUs: seconds of training, unless ``sections`` say otherwise."""
    return _spec("bert", "TextClassification", "sentences", sections)


def instruction(**sections: Mapping[str, Any]) -> Object:
    """A spec on the tiny causal model."""
    return _spec("llama", "InstructionTuning", "questions", sections)


def at_most(**resources: str) -> Object:
    """A LimitRange that gives each container at most so much of each resource."""
    return {"limits": [{"type": "Container", "default": resources}]}


SLOWLY = at_most(memory="3Gi", cpu="400m")
"""For trainings that have to last: they leave the cores to others, and none is through before its time."""


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
    if task == "InstructionTuning":
        spec["evaluation"] = {"generation": {"maxNewTokens": 8}}
    for name, section in sections.items():
        spec[name] = {**spec.get(name, {}), **section} if isinstance(section, Mapping) else section
    return spec


class Tenant:
    """One namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.api: Api = control.api()

    def create(self) -> Tenant:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.api.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}}, "team"
        )
        self.secret("s3", CREDENTIALS)
        self.limit("LimitRange", at_most(memory="3Gi"))
        return self

    def secret(self, name: str, values: Mapping[str, str]) -> None:
        metadata = {"name": name, "namespace": self.name}
        self.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(values)}, "team")

    def limit(self, kind: str, spec: Mapping[str, Any]) -> None:
        """Have one ResourceQuota, or one LimitRange, in place of the one before."""
        path = f"/api/v1/namespaces/{self.name}/{kind.lower()}s/limit"
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "limit"}, "spec": spec}
        self.api.request("PATCH", path, body, APPLY, {"fieldManager": "team"})

    def clear_up(self) -> None:
        """Delete all jobs and the namespace, which goes when their pods have ended: nobody waits for that."""
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
            PATIENCE_SECONDS,
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
        """Change parts of a job's spec."""
        self.api.merge("FineTuneJob", name, self.name, {"spec": spec})

    def status(self, name: str) -> Object:
        found = self.api.find("FineTuneJob", name, self.name)
        return dict((found or {}).get("status", {}))

    def until(self, name: str, holds: Callable[[Object], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Object:
        """The job's status for which ``holds`` is true, as soon as there is one; a job at its end is not waited for."""
        last: Object = {}

        def check() -> bool:
            nonlocal last
            try:
                last = self.status(name)
            except Refused as error:
                if error.code in _NOT_NOW:
                    return False
                raise
            found = bool(last) and bool(holds(last))
            if not found and last.get("phase") in OVER:
                raise AssertionError(f"the job ended before: {what}")
            return found

        try:
            wait_until(check, what, seconds, _EVERY_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{self.name}/{name}: {error}; it is {json.dumps(last, indent=1)}") from None
        return last

    def until_over(self, name: str, seconds: float = PATIENCE_SECONDS) -> Object:
        """The status of the job at its end."""
        return self.until(name, lambda status: status.get("phase") in OVER, "it ends", seconds)

    def until_succeeded(self, name: str, seconds: float = PATIENCE_SECONDS) -> Object:
        return self._until_ends_in("Succeeded", name, seconds)

    def until_failed(self, name: str) -> Object:
        return self._until_ends_in("Failed", name, PATIENCE_SECONDS)

    def _until_ends_in(self, phase: str, name: str, seconds: float) -> Object:
        status = self.until_over(name, seconds)
        assert status["phase"] == phase, f"{self.name}/{name}: {json.dumps(status, indent=1)}"
        return status

    def until_trained(self, name: str) -> Object:
        """The status of the job when it has been trained; what comes after that is then spared, as others test it."""
        status = self.until(
            name, lambda status: stage(status, "train")["state"] in OVER, "it is trained", PATIENCE_SECONDS
        )
        assert stage(status, "train")["state"] == "Succeeded", json.dumps(status.get("failure"), indent=1)
        self.api.delete("FineTuneJob", name, self.name)
        return status

    def until_step(self, name: str, step: int) -> Object:
        """The status when training, this attempt, has reached ``step``."""
        return self.until(name, lambda status: training_step(status) >= step, f"training reaches step {step}")

    def until_own_step(self, name: str, step: int) -> int:
        """The step of at least ``step`` that worker 0 itself says it has reached: the status is a little behind."""

        def find() -> int:
            # One that is being deleted may have no network any more: asking it would take seconds, and miss the next.
            pods = [pod for pod in self.pods(name, "train") if _is_worker(pod, 0)]
            reached = max((own_step(pod) for pod in pods), default=0)
            if not pods and (status := self.status(name)).get("phase") in OVER:
                raise AssertionError(f"{self.name}/{name} was not seen at step {step}: {json.dumps(status, indent=1)}")
            return reached if reached >= step else 0

        return int(wait_until(find, f"{name} reaches step {step}", PATIENCE_SECONDS, 0.2))

    def until_checkpoint(self, name: str, step: int = 1) -> Object:
        """The status when a checkpoint of ``step`` or later is whole."""
        return self.until(
            name, lambda status: status.get("checkpoint", {}).get("step", 0) >= step, f"a checkpoint of step {step}"
        )

    def jobs(self, name: str) -> list[Object]:
        """The child Jobs of a job."""
        return self.api.list("Job", self.name, labelSelector=f"{JOB_LABEL}={name}")

    def pods(self, name: str, stage: str | None = None) -> list[Object]:
        selector = f"{JOB_LABEL}={name}" + (f",{STAGE_LABEL}={stage}" if stage else "")
        return self.api.list("Pod", self.name, labelSelector=selector)

    def worker(self, name: str, index: int, stage: str = "train") -> Object:
        """The running pod of a worker, as soon as it runs."""

        def find() -> Object | None:
            return next((pod for pod in self.pods(name, stage) if _is_worker(pod, index)), None)

        return dict(wait_until(find, f"worker {index} of {name} runs", PATIENCE_SECONDS, 0.2))

    def delete_pod(self, pod: Object, seconds: int = 0) -> None:
        self.api.delete("Pod", pod["metadata"]["name"], self.name, gracePeriodSeconds=seconds)

    def events(self, name: str) -> list[Object]:
        selector = f"involvedObject.kind=FineTuneJob,involvedObject.name={name}"
        return self.api.list("Event", self.name, fieldSelector=selector)

    def is_clean(self) -> bool:
        """Whether no pod, Job or Service is left in the namespace."""
        return not any(self.api.list(kind, self.name) for kind in ("Pod", "Job", "Service"))

    def revision(self, name: str, revision: int = 1) -> Path:
        """The directory behind a revision's address."""
        return BUCKETS / OUTPUT / self.name / name / f"r{revision}"

    def curve(self, name: str) -> list[Object]:
        """The training curve of a job whose training is done."""
        history = json.loads((self.revision(name) / "trained" / "history.json").read_text())
        return list(history["train"])

    def steps_of_checkpoint(self, name: str, step: int) -> list[int]:
        """The steps that a checkpoint has the losses of, in their order."""
        state = self.revision(name) / "checkpoints" / f"step-{step:08d}" / "trainer_state.json"
        return [entry["step"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


def _is_worker(pod: Object, index: int) -> bool:
    """Whether a pod is that worker of a run, and runs on."""
    mine = pod["metadata"]["annotations"].get("batch.kubernetes.io/job-completion-index") == str(index)
    return mine and pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]


def training_step(status: Mapping[str, Any]) -> int:
    """Steps that the running training has done; 0 before it trains."""
    found = re.match(r"train (\d+)/", (status.get("progress") or {}).get("text", ""))
    return int(found[1]) if found else 0


def own_step(pod: Object) -> int:
    """The step that a pod of worker 0 itself says it has reached; 0 before it says anything."""
    url = f"http://{pod['status']['podIP']}:9400/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            page = response.read().decode()
    except OSError:
        return 0
    found = re.search(r"^finetune_train_step (\S+)", page, flags=re.MULTILINE)
    return int(float(found[1])) if found else 0


def says(status: Mapping[str, Any], type_: str = "Ready") -> str:
    """The sentence of a condition."""
    return str(condition(status, type_)["message"])


def ranks(pod: Object) -> list[int]:
    """The ids, on this machine, of the training processes in a pod."""
    identity = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    main = node_of(pod).task(identity)
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    return [int(child) for child in children if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
