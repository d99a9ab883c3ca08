"""The local executor: carries the plan out as processes on this machine."""

from finetune_operator.local.errors import LocalError
from finetune_operator.local.executor import Executor, Snapshot
from finetune_operator.local.machine import Machine
from finetune_operator.local.state import StateDirectory, home

__all__ = ["Executor", "LocalError", "Machine", "Snapshot", "StateDirectory", "home"]
