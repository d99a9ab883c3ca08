"""The actions of a test: apply jobs in a namespace, run the operator, read the results."""

from __future__ import annotations

import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests import builders
from tests.apiserver.api import Api
from tests.apiserver.control_plane import Program, clean_environment, start, wait_until
from tests.apiserver.kubelet import Kubelet
from tests.ports import free_port

PROGRESS_SECONDS = 0.3


class Operator:
    """The operator as a process, from the checkout that ``python`` belongs to."""

    def __init__(self, kubeconfig: Path, directory: Path, *, python: str = sys.executable, **settings: Any) -> None:
        self._kubeconfig = kubeconfig
        self._python = python
        self._directory = directory
        self.port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        document = {
            "trainer": {"image": "finetune-trainer:test"},
            "listen": "127.0.0.1",
            "port": self.port,
            "progressSeconds": PROGRESS_SECONDS,
            "resyncSeconds": 5,
            "logLevel": "INFO",
            **settings,
        }
        (directory / "settings.json").write_text(json.dumps(document))
        self._program: Program | None = None

    def start(self, wait: bool = True) -> Operator:
        arguments = [self._python, "-m", "finetune_operator", "--config", str(self._directory / "settings.json")]
        # The keys of a kubeconfig are in temporary files while it runs; a killed process leaves them.
        environment = clean_environment(KUBECONFIG=str(self._kubeconfig), TMPDIR=str(self._directory))
        self._program = start(arguments, self._directory / "operator.log", environment)
        if wait:
            wait_until(lambda: self.http("/readyz")[0] == 200, "the operator is ready", 60)
        return self

    def http(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        lines = self.http("/metrics")[1].splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    @property
    def pid(self) -> int:
        assert self._program
        return self._program.process.pid

    def kill(self) -> None:
        """SIGKILL."""
        if self._program:
            self._program.kill()

    def end(self) -> None:
        """SIGTERM, then SIGKILL; a process that is killed at once writes no coverage data."""
        if self._program:
            self._program.stop()

    def hears_stops(self) -> bool:
        """Whether SIGTERM has a handler."""
        assert self._program
        status = Path(f"/proc/{self._program.process.pid}/status").read_text()
        caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._program
        self._program.process.send_signal(signal.SIGTERM)
        return self._program.process.wait(30)

    def wait(self) -> int:
        """The exit code of an operator that exits by itself."""
        assert self._program
        return self._program.process.wait(60)

    def log(self) -> str:
        path = self._directory / "operator.log"
        return path.read_text() if path.exists() else ""


class Desk:
    """One namespace of a running API server, with simulated nodes."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.kubelet = Kubelet(api)

    def apply(self, name: str = "intents", manager: str = "kubectl", **spec: Any) -> dict[str, Any]:
        return self.api.apply(self.manifest(name, **spec), manager)

    def manifest(self, name: str = "intents", **spec: Any) -> dict[str, Any]:
        document = builders.manifest(**spec)
        return {**document, "metadata": {"name": name, "namespace": self.namespace}}

    def job(self, name: str = "intents") -> dict[str, Any]:
        return self.api.get("FineTuneJob", name, self.namespace)

    def status(self, name: str = "intents") -> dict[str, Any]:
        return dict(self.job(name).get("status", {}))

    def children(self) -> list[dict[str, Any]]:
        return self.api.list("Job", self.namespace)

    def child(self, stage: str, attempt: int = 1, revision: int = 1, name: str = "intents") -> dict[str, Any]:
        """Wait for the child Job of a run."""
        wanted = f"{name}-r{revision}-{stage}-{attempt}"
        found = wait_until(lambda: self.api.find("Job", wanted, self.namespace), f"Job {wanted} is there")
        return dict(found)

    def until(
        self, holds: Callable[[dict[str, Any]], Any], what: str, name: str = "intents", seconds: float = 30.0
    ) -> dict[str, Any]:
        """Wait for a status for which ``holds`` is true."""
        last: dict[str, Any] = {}

        def check() -> Any:
            nonlocal last
            last = self.status(name)
            return last and holds(last)

        try:
            wait_until(check, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {json.dumps(last, indent=1)}") from None
        return last

    def until_phase(self, phase: str, name: str = "intents", seconds: float = 30.0) -> dict[str, Any]:
        return self.until(lambda status: status.get("phase") == phase, f"phase is {phase}", name, seconds)

    def being_ended(self, child: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until the operator has requested the stop of a child Job."""

        def find() -> Any:
            found = self.api.get("Job", child["metadata"]["name"], self.namespace)
            return found if found["spec"].get("activeDeadlineSeconds") == 1 else None

        return dict(wait_until(find, f"Job {child['metadata']['name']} is being ended"))

    def run_to(self, stage: str, name: str = "intents", attempt: int = 1) -> dict[str, Any]:
        """Let all stages before ``stage`` succeed; returns the child Job of ``stage``."""
        for before in ("prepare", "train", "evaluate", "publish"):
            if before == stage:
                break
            self.kubelet.succeed(self.child(before, name=name))
        return self.child(stage, attempt, name=name)

    def run_all(self, name: str = "intents") -> dict[str, Any]:
        self.kubelet.succeed(self.run_to("publish", name))
        return self.until_phase("Succeeded", name)

    def until_event(self, reason: str, name: str = "intents") -> dict[str, Any]:
        """Wait for an Event, which follows the status that it is about."""
        found: list[dict[str, Any]] = []

        def check() -> bool:
            found[:] = [event for event in self.events(name) if event["reason"] == reason]
            return bool(found)

        wait_until(check, f"Event {reason} of {name}", 30)
        return found[0]

    def events(self, name: str = "intents") -> list[dict[str, Any]]:
        selector = f"involvedObject.kind=FineTuneJob,involvedObject.name={name}"
        return self.api.list("Event", self.namespace, fieldSelector=selector)


def condition(status: Mapping[str, Any], type_: str) -> dict[str, Any]:
    return next(dict(entry) for entry in status["conditions"] if entry["type"] == type_)


def stage(status: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The status entry of a stage; a default one if the stage has not started."""
    none = {"name": name, "state": "Pending", "attempt": 0, "restarts": 0}
    return next((dict(entry) for entry in status.get("stages", ()) if entry["name"] == name), none)
