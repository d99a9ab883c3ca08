"""Where a job runs: how to read its logs, resume it and retry it there."""

from __future__ import annotations

from typing import Protocol

from finetune_api.failures import Fault
from finetune_cli.local import StateDirectory
from finetune_cli.output import program
from finetune_core.runs import RunId


class Place(Protocol):
    """The texts about a job that depend on where it runs."""

    resume: str
    """How to resume a stopped job, as the end of a sentence."""
    again: str
    """How to retry a failed job, as a sentence."""

    def whose(self, fault: Fault) -> str:
        """Who has to act, as a sentence."""

    def log(self, run: RunId) -> str | None:
        """The path of a run's log, or the command that prints it; None if there is no log."""


class ThisMachine:
    """A job that runs as local processes."""

    def __init__(self, state: StateDirectory, command: str | None = None) -> None:
        """``command`` is the one that runs the job; None if it is the one that was typed."""
        self._state = state
        self.resume = f"resume it with {command}" if command else "run the same command to resume"
        retry = command or "the same command"
        self.again = f"Run {retry} to retry from the failed stage."

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
        self.again = (
            "Submit a changed spec to start the next revision, or delete the job and submit the same spec to retry."
        )

    def whose(self, fault: Fault) -> str:
        return {
            Fault.USER: "To fix this, change the manifest, the data, or the permissions of its Secrets.",
            Fault.CLUSTER: "The cause is the cluster or a service that it uses, not the job.",
            Fault.OPERATOR: "This is a bug in finetune; please report it with the log.",
        }[fault]

    def log(self, run: RunId) -> str | None:
        return f"{program()} logs {self._job} --stage {run.stage} --attempt {run.attempt}"
