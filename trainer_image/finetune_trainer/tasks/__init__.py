"""Tasks, one package each; `form_of` loads them."""

from finetune_api.tables.tasks import ModelFamily, TaskType
from finetune_trainer.registry import Registry
from finetune_trainer.tasks.base import Task, TaskForm

task_of: Registry[Task] = Registry(Task, "finetune_trainer.tasks", "task")


def form_of(task: TaskType, family: ModelFamily) -> TaskForm:
    """The form of ``task`` for models of ``family``."""
    return task_of(task).forms[family]
