"""Where a job runs: what a person does there to read a log, to resume and to try again."""

from __future__ import annotations

from typing import Protocol

from finetune_api.failures import Fault
from finetune_cli.local import StateDirectory
from finetune_cli.output import program
from finetune_core.runs import RunId


class Place(Protocol):
    """What the end of a job says about the place that it ran at."""

    resume: str
    """How a job that was stopped goes on, as the end of a sentence."""
    again: str
    """How a job that failed is tried again, as a sentence."""

    def whose(self, fault: Fault) -> str:
        """Who has to act."""

    def log(self, run: RunId) -> str | None:
        """Where the log of a run is; None where there is none."""


class ThisMachine:
    """A job that runs as processes of this machine."""

    resume = "run the same command to resume"
    again = "Run the same command to try again from there."

    def __init__(self, state: StateDirectory) -> None:
        self._state = state

    def whose(self, fault: Fault) -> str:
        return {
            Fault.USER: "This is for you to change: the manifest, the data, or what this machine may read and write.",
            Fault.CLUSTER: "The cause is this machine or a service that it uses, not the job.",
            Fault.OPERATOR: "This is a fault in finetune itself; please report it, with the log.",
        }[fault]

    def log(self, run: RunId) -> str | None:
        log = self._state.run(run).log
        return str(log) if log.exists() else None


class OnCluster:
    """A job that the operator runs."""

    def __init__(self, namespace: str, name: str) -> None:
        self._job = f"{name} -n {namespace}"
        self.resume = f"{program()} resume {self._job} lets it go on"
        self.again = (
            "Submit a changed spec for the next revision, or delete the job and submit the same one to try it again."
        )

    def whose(self, fault: Fault) -> str:
        return {
            Fault.USER: "This is for you to change: the manifest, the data, or what its Secrets allow.",
            Fault.CLUSTER: "The cause is the cluster or a service that it uses, not the job.",
            Fault.OPERATOR: "This is a fault in finetune itself; please report it, with the log.",
        }[fault]

    def log(self, run: RunId) -> str | None:
        return f"{program()} logs {self._job} --stage {run.stage} --attempt {run.attempt}"
