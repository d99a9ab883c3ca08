"""A teacher in the Hugging Face layout that generates answers: whether it can, and how it reads prompts.

It reads a prompt as a model of its family that is tuned for the task does: in its own chat template, with its own
prefix or language codes. Without torch, so that prepare refuses a teacher before a GPU is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from finetune_api.failures import StageFailure
from finetune_api.spec import FineTuneJobSpec, GenerationSpec
from finetune_api.spec.distillation import DEFAULT_MAX_NEW_TOKENS
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.families import family_of, load_families
from finetune_trainer.modelling.tokenizer import fix_date
from finetune_trainer.models import read_config, read_generation_config, vocabulary_size
from finetune_trainer.prepare.lengths import sequence_length
from finetune_trainer.prepare.special_tokens import choose_ends, choose_padding
from finetune_trainer.prepare.teacher import Teacher, as_model, handling_of, refused
from finetune_trainer.prepared import DataReport, ModelHandling, TeacherReport
from finetune_trainer.tasks import form_for
from finetune_trainer.tasks.base import Preparation, TaskForm
from finetune_trainer.tasks.teachable import Teachable
from finetune_trainer.teachers import generating_teacher


@dataclass(frozen=True)
class GeneratingTeacher:
    """A teacher that generates answers."""

    teacher: Teacher
    family: ModelFamily
    form: TaskForm
    """The task of the job on models of its family."""
    config: Mapping[str, Any]
    handling: ModelHandling
    tokenizer: Any
    preparation: Preparation
    """How it reads prompts."""
    padding: int
    generation: GenerationSpec
    """Settings of its answers: greedy, one to each prompt."""

    @property
    def report(self) -> TeacherReport:
        """What the prepared data says about it."""
        return TeacherReport(model=self.teacher.identity, attention=self.handling.attention, tokens=None)

    @cached_property
    def _defaults(self) -> Mapping[str, Any]:
        """Its ``generation_config.json``."""
        return read_generation_config(self.teacher.local.path, self.teacher.identity.uri)

    def settings(self, report: DataReport) -> DataReport:
        """``report`` as if the teacher was the model of the job: how it is loaded, and how it generates.

        What ends its answers is known once it has read prompts.
        """
        generation = self._defaults
        return report.model_copy(
            update={
                "family": self.family,
                "model": self.teacher.identity,
                "teacher": self.report,
                "handling": self.handling,
                "padding": self.padding,
                "virtual_tokens": 0,
                "end_tokens": choose_ends(self.tokenizer, self.preparation.answers, self.config, generation),
                "generation": dict(self.form.generation(self.tokenizer, self.config, generation)),
            }
        )


def open_teacher(teacher: Teacher, spec: FineTuneJobSpec) -> GeneratingTeacher:
    """The teacher of ``spec``, which is on local disk.

    Raises:
        StageFailure: BadConfiguration when it cannot generate answers for the task.
    """
    model = generating_teacher(spec)
    assert model is not None
    assert spec.distillation is not None
    config = read_config(teacher.local.path, model.uri)
    generation = GenerationSpec(max_new_tokens=spec.distillation.teacher.max_new_tokens or DEFAULT_MAX_NEW_TOKENS)
    # It may read longer prompts than its student, and leaves room for its own answers.
    taken = as_model(spec, model)
    taken = taken.model_copy(
        update={
            "training": taken.training.model_copy(update={"max_sequence_length": None}),
            "evaluation": taken.evaluation.model_copy(update={"generation": generation}),
        }
    )
    try:
        family = family_of(load_families(), config, spec.task.type.row.families)
        form = form_for(taken, family)
        handling = handling_of(taken, config, form, family)
        tokenizer = form.load_tokenizer(teacher.local.path, taken)
        if form.uses_chat_template:
            fix_date(tokenizer, datetime.now(UTC).date().isoformat())
        default = sequence_length(taken, family, teacher.identity)
        length = teacher.identity.max_positions or max(default, spec.training.max_sequence_length or 0)
        preparation = form.preparation(taken, tokenizer, length, config)
    except StageFailure as failure:
        raise refused(failure.message) from None
    if form.answer_form() is None or not isinstance(preparation, Teachable):
        raise refused(
            f"{model.uri} is a model of the family {family}, which answers {spec.task.type} without writing: serve a "
            "model that writes and use teacher.endpoint, or use mode Logits"
        )
    padding = choose_padding(tokenizer, vocabulary_size(config))
    return GeneratingTeacher(teacher, family, form, config, handling, tokenizer, preparation, padding, generation)
