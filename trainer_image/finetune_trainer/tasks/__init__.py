"""Tasks, one package each; `task_of` loads them."""

from finetune_trainer.registry import Registry
from finetune_trainer.tasks.base import Task

task_of: Registry[Task] = Registry(Task, "finetune_trainer.tasks", "task")
