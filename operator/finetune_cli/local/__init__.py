"""The local executor: runs the stages of a plan as processes on this machine."""

from finetune_cli.local.errors import LocalError
from finetune_cli.local.executor import Executor, Snapshot
from finetune_cli.local.machine import Machine
from finetune_cli.local.outage import Outage
from finetune_cli.local.state import StateDirectory, home

__all__ = ["Executor", "LocalError", "Machine", "Outage", "Snapshot", "StateDirectory", "home"]
