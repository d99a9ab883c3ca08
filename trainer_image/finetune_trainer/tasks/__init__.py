"""Tasks, one package each; `form_of` loads them."""

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.tasks import ModelFamily, TaskType
from finetune_trainer.methods import method_of
from finetune_trainer.registry import Registry
from finetune_trainer.tasks.base import Task, TaskForm

task_of: Registry[Task] = Registry(Task, "finetune_trainer.tasks", "task")


def form_for(spec: FineTuneJobSpec, family: ModelFamily) -> TaskForm:
    """The form of the task of a job for models of ``family``, as its method needs it."""
    return method_of(spec.method.type).task_form(spec.task.type, family, form_of(spec.task.type, family))


def form_of(task: TaskType, family: ModelFamily) -> TaskForm:
    """The form of ``task`` for models of ``family``."""
    return task_of(task).forms[family]
