"""Where a job runs: how to read its logs, resume it and retry it there."""

from __future__ import annotations

from typing import Protocol

from finetune_api.failures import Fault, Reason
from finetune_cli.local import StateDirectory
from finetune_cli.output import program
from finetune_core.remedies import after_last_attempt
from finetune_core.runs import RunId


class Place(Protocol):
    """The texts about a job that depend on where it runs."""

    resume: str
    """How to resume a stopped job, as the end of a sentence."""

    def again(self, reason: Reason) -> str:
        """What to do after a job has failed for good, as sentences."""

    def whose(self, fault: Fault) -> str:
        """Who has to act, as a sentence."""

    def log(self, run: RunId) -> str | None:
        """The path of a run's log, or the command that prints it; None if there is no log."""


class ThisMachine:
    """A job that runs as local processes."""

    resume = "run the same command to resume"

    def __init__(self, state: StateDirectory) -> None:
        self._state = state

    def again(self, reason: Reason) -> str:
        if reason is Reason.GATE_FAILED:
            return after_last_attempt(reason)
        return "Run the same command to retry from the failed stage."

    def whose(self, fault: Fault) -> str:
        return {
            Fault.USER: "To fix this, change the manifest, the data, or the permissions of this machine.",
            Fault.CLUSTER: "The cause is this machine or a service that it uses, not the job.",
            Fault.OPERATOR: "This is a bug in finetune; please report it with the log.",
        }[fault]

    def log(self, run: RunId) -> str | None:
        log = self._state.run(run).log
        return str(log) if log.exists() else None


class OnCluster:
    """A job that the operator runs on a cluster."""

    def __init__(self, namespace: str, name: str) -> None:
        self._job = f"{name} -n {namespace}"
        self.resume = f"resume it with {program()} resume {self._job}"

    def again(self, reason: Reason) -> str:
        return after_last_attempt(reason)

    def whose(self, fault: Fault) -> str:
        return {
            Fault.USER: "To fix this, change the manifest, the data, or the permissions of its Secrets.",
            Fault.CLUSTER: "The cause is the cluster or a service that it uses, not the job.",
            Fault.OPERATOR: "This is a bug in finetune; please report it with the log.",
        }[fault]

    def log(self, run: RunId) -> str | None:
        return f"{program()} logs {self._job} --stage {run.stage} --attempt {run.attempt}"
