"""PromptSearch: finds the best prompt for a model that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finetune_api.failures import Reason, StageFailure
from finetune_api.method_settings import PromptSearchSpec
from finetune_api.spec import FineTuneJobSpec, TrainingSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.methods.base import Attachment, Loader, MethodDefaults
from finetune_trainer.methods.coverage import Coverage

if TYPE_CHECKING:
    from finetune_api.tables.tasks import TaskType
    from finetune_trainer.modelling.loading import LoadedModel
    from finetune_trainer.tasks.base import TaskForm

_READ = ("seed", "precision", "max_sequence_length", "checkpoint")
"""Settings of spec.training that a search uses."""


class PromptSearch(MethodDefaults):
    """Prompt search; implements `finetune_trainer.methods.base.Method`."""

    trains_base = False
    form = "A prompt"
    tags = ("prompt",)
    work = "finetune_trainer.search.run:load"

    def task_form(self, task: TaskType, family: ModelFamily, form: TaskForm) -> TaskForm:
        from finetune_trainer.search.form import PromptedForm

        return cast("TaskForm", PromptedForm(task, form, decoder=family is not ModelFamily.SEQ2SEQ))

    def check_data(self, spec: FineTuneJobSpec, rows: int) -> Sequence[str]:
        settings = _settings(spec)
        if max(settings.shots) > rows:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"method.promptSearch.shots asks for {max(settings.shots)} examples, but the training split has only "
                f"{rows}: lower it, or add training rows",
            )
        default = TrainingSpec()
        unread = [
            str(info.alias)
            for name, info in TrainingSpec.model_fields.items()
            if name not in _READ and getattr(spec.training, name) != getattr(default, name)
        ]
        if not unread:
            return ()
        listed = ", ".join(f"training.{name}" for name in unread)
        return (f"{listed} {'have' if len(unread) > 1 else 'has'} no effect: method {spec.method.type} trains nothing",)

    def attach(self, loaded: LoadedModel, attachment: Attachment) -> Any:
        return loaded.complete()

    def tuned(self, load: Loader, base: Path, trained: Path) -> Any:
        return load(base).complete()

    def baseline_and_tuned(self, load: Loader, base: Path, trained: Path) -> Iterator[tuple[str, Any]]:
        model = self.tuned(load, base, trained)
        yield "baseline", model
        yield "tuned", model

    def coverage(self, model: Any) -> Coverage | None:
        return None

    def describe(self, spec: FineTuneJobSpec) -> Sequence[tuple[str, str]]:
        settings = _settings(spec)
        proposed = f", and {settings.propose} proposed ones" if settings.propose else ""
        return [
            ("Candidates", f"{len(settings.candidates)}{proposed}"),
            ("Examples in a prompt", ", ".join(map(str, settings.shots))),
            ("Combinations", f"at most {settings.trials:,}"),
            ("Validation examples", f"at most {settings.examples:,}"),
            *([("Token budget", f"{settings.max_tokens:,}")] if settings.max_tokens else []),
        ]


def _settings(spec: FineTuneJobSpec) -> PromptSearchSpec:
    settings = spec.method.settings
    assert isinstance(settings, PromptSearchSpec)
    return settings


method = PromptSearch()
