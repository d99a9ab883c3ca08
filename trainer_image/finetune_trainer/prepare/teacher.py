"""Whether a model can learn from the logits of its teacher, from their configurations and tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DistillationMode, FineTuneJobSpec, MethodSpec, MethodType, ModelSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.families import base_labels, decide_handling, family_of, load_families
from finetune_trainer.models import LocalModel, identify_model, read_config, vocabulary_size
from finetune_trainer.prepared import ModelHandling, ModelIdentity, TeacherReport
from finetune_trainer.tasks.base import TaskForm
from finetune_trainer.teachers import FIELD, fetch_teacher, generating_teacher, loaded_teacher

_HEADS = {"SEQ_CLS": "ForSequenceClassification", "QUESTION_ANS": "ForQuestionAnswering"}
"""End of the name of the model class with the head, by PEFT task type; other heads give logits of tokens."""
_SEVERAL_LABELS = "multi_label_classification"
_SHOWN = 5


@dataclass(frozen=True)
class Teacher:
    """A teacher on local disk, without its weights."""

    local: LocalModel
    identity: ModelIdentity


@dataclass(frozen=True)
class Student:
    """What prepare knows of the model that learns before it reads the data."""

    family: ModelFamily
    form: TaskForm
    config: Mapping[str, Any]
    tokenizer: Any
    length: int
    """Largest number of tokens of an example."""
    padding: int


@dataclass(frozen=True)
class Taught:
    """How a student learns from its teacher; without a report, it has none."""

    report: TeacherReport | None
    handling: ModelHandling
    """How training handles the student, with what the teacher does not allow."""
    notes: tuple[str, ...]


def find_teacher(spec: FineTuneJobSpec, scratch: Path) -> Teacher | None:
    """The teacher as a model, without its weights; None if the job has no teacher, or an endpoint answers for it.

    Raises:
        StageFailure: As `finetune_trainer.teachers.fetch_teacher`.
    """
    teacher = loaded_teacher(spec) or generating_teacher(spec)
    if teacher is None:
        return None
    local = fetch_teacher(teacher, scratch, weights=False)
    return Teacher(local, identify_model(teacher, local))


@dataclass(frozen=True)
class FittingTeacher:
    """A teacher whose family, head, positions and tokenizer are those of its student."""

    model: ModelSpec
    teacher: Teacher
    config: Mapping[str, Any]
    handling: ModelHandling
    known: int
    """Ids of both tokenizers."""


def fitting_teacher(teacher: Teacher | None, spec: FineTuneJobSpec, student: Student) -> FittingTeacher | None:
    """Check before the data is read that the logits of both models mean the same.

    Args:
        teacher: The teacher; None if it is no model.
        spec: The spec of the job.
        student: The model that learns.

    Returns:
        None if the job has no teacher whose logits it compares.

    Raises:
        StageFailure: BadConfiguration when they do not.
    """
    model = loaded_teacher(spec)
    if teacher is None or model is None:
        return None
    config = read_config(teacher.local.path, model.uri)
    try:
        family = family_of(load_families(), config, spec.task.type.row.families)
        taken = as_model(spec, model)
        handling = handling_of(taken, config, student.form, family)
    except StageFailure as failure:
        raise refused(failure.message) from None
    if family is not student.family:
        raise refused(
            f"{model.uri} is a model of the family {family}, and {spec.model.uri} of {student.family}: "
            f"{_alternative(spec, student, 'use a teacher of the same family')}"
        )
    _check_head(model, config, student)
    _check_positions(teacher, model, student)
    return FittingTeacher(model, teacher, config, handling, _known_tokens(teacher, taken, spec, student))


def taught_by(
    fitting: FittingTeacher | None,
    spec: FineTuneJobSpec,
    student: Student,
    *,
    handling: ModelHandling,
    highest_token: int,
    labels: Sequence[str],
) -> Taught:
    """How the student learns from its teacher, once the data is read.

    Args:
        fitting: The teacher; None if the job has none whose logits it compares.
        spec: The spec of the job.
        student: The model that learns.
        handling: How training handles it without a teacher.
        highest_token: Highest token id in the data.
        labels: The labels of the job.

    Raises:
        StageFailure: BadConfiguration when the teacher has other labels, or cannot read the data.
    """
    if fitting is None:
        return Taught(None, handling, ())
    model, width = fitting.model, vocabulary_size(fitting.config)
    highest = max(highest_token, student.padding)
    if width is not None and highest >= width:
        raise refused(
            f"the data contains token id {highest}, but {model.uri} has {width} token embeddings: resize its "
            "embeddings, or use another teacher"
        )
    tokens: int | None = None
    padded: tuple[str, ...] = ()
    if student.form.adapter_task not in _HEADS:
        tokens, padded = _shared(fitting.known, width, vocabulary_size(student.config))
    return Taught(
        TeacherReport(
            model=fitting.teacher.identity,
            attention=fitting.handling.attention,
            tokens=tokens,
            labels=_columns(model, fitting.config, spec, labels),
        ),
        *_both(spec, model, handling, fitting.handling, padded),
    )


def handling_of(
    taken: FineTuneJobSpec, config: Mapping[str, Any], form: TaskForm, family: ModelFamily
) -> ModelHandling:
    """How a teacher is handled, whose spec as a model is ``taken``.

    Raises:
        StageFailure: As `decide_handling`.
    """
    return decide_handling(
        load_families(),
        taken,
        config,
        adapter_task=form.adapter_task,
        family=family,
        labels=(),
        installed=version("transformers"),
    )


def as_model(spec: FineTuneJobSpec, teacher: ModelSpec) -> FineTuneJobSpec:
    """``spec`` as if the teacher was the model: what it is trained with does not matter."""
    training = spec.training.model_copy(update={"packing": None})
    method = MethodSpec(type=MethodType.FULL)
    return spec.model_copy(update={"model": teacher, "training": training, "method": method})


def _both(
    spec: FineTuneJobSpec, model: ModelSpec, student: ModelHandling, teacher: ModelHandling, padded: tuple[str, ...]
) -> tuple[ModelHandling, tuple[str, ...]]:
    """How training handles batches that both models read, and the notes on the teacher."""
    notes = list(padded)
    if student.packing and not teacher.packing:
        if spec.training.packing:
            raise refused(
                f"training.packing is true, but {teacher.model_class} of {model.uri} does not separate the examples of "
                "a packed row: set training.packing to false"
            )
        notes.append(f"packing is off, because the teacher {teacher.model_class} does not separate packed examples")
        student = student.model_copy(update={"packing": False})
    if student.batching and not teacher.batching:
        notes.append(
            f"examples run one at a time, because the outputs of the teacher {teacher.model_class} depend on padding"
        )
        student = student.model_copy(update={"batching": False})
    return student, tuple(notes)


def _check_head(model: ModelSpec, config: Mapping[str, Any], student: Student) -> None:
    head = _HEADS.get(student.form.adapter_task)
    names = [str(name) for name in config.get("architectures") or ()]
    if head and not any(name.endswith(head) for name in names):
        raise refused(
            f"{model.uri} is a {names[0] if names else 'model'}, which has no trained head for this task (no "
            f"{head}): train the teacher with a FineTuneJob of method Full first, and use its artifact"
        )


def _check_positions(teacher: Teacher, model: ModelSpec, student: Student) -> None:
    limit = teacher.identity.max_positions
    if limit is not None and limit < student.length:
        raise refused(
            f"{model.uri} supports at most {limit} positions, and examples have up to {student.length} tokens: lower "
            f"training.maxSequenceLength to {limit}"
        )


def _known_tokens(teacher: Teacher, as_model: FineTuneJobSpec, spec: FineTuneJobSpec, student: Student) -> int:
    """Check that both tokenizers give every token the same id; returns the number of ids."""
    try:
        theirs: dict[str, int] = student.form.load_tokenizer(teacher.local.path, as_model).get_vocab()
    except StageFailure as failure:
        raise refused(failure.message) from None
    ours: dict[str, int] = student.tokenizer.get_vocab()
    if theirs == ours:
        return max(ours.values()) + 1
    moved = sorted(token for token in ours.keys() & theirs.keys() if ours[token] != theirs[token])
    alone = sorted(ours.keys() ^ theirs.keys())
    found = []
    if moved:
        token = moved[0]
        found.append(
            f"{len(moved):,} tokens have another id, such as {token[:40]!r} ({theirs[token]}, not {ours[token]})"
        )
    if alone:
        found.append(f"{len(alone):,} are only in one of them, such as {alone[0][:40]!r}")
    raise refused(
        f"{as_model.model.uri} has another vocabulary than {spec.model.uri}: {' and '.join(found)}; "
        f"{_alternative(spec, student, 'use a teacher with the same tokenizer')}"
    )


def _shared(known: int, teacher: int | None, student: int | None) -> tuple[int, tuple[str, ...]]:
    """The number of token ids whose logits both models have, and a note on logits that are not used.

    Args:
        known: Ids of the tokenizer.
        teacher: Rows of the teacher's embeddings; None if unknown.
        student: Likewise.
    """
    tokens = min(known, *(width for width in (teacher, student) if width is not None))
    more = [
        f"{width - tokens:,} padding rows of the {name}"
        for name, width in (("teacher", teacher), ("student", student))
        if width is not None and width > tokens
    ]
    return tokens, (f"{' and '.join(more)} are not used",) if more else ()


def _columns(
    model: ModelSpec, config: Mapping[str, Any], spec: FineTuneJobSpec, labels: Sequence[str]
) -> tuple[int, ...]:
    """The index of each label in the teacher; empty for a task without labels."""
    if not labels:
        return ()
    present = base_labels(config)
    retrain = "train the teacher with a FineTuneJob on the same labels first"
    if present is None:
        raise refused(f"config.json of {model.uri} does not name the labels of its head (id2label): {retrain}")
    lacking = [label for label in labels if label not in present]
    other = [label for label in present if label not in labels]
    if lacking or other:
        found = [f"lacks {_named(lacking)}" if lacking else "", f"has also {_named(other)}" if other else ""]
        raise refused(
            f"{model.uri} {' and '.join(part for part in found if part)}, compared with the {len(labels)} labels of "
            f"the job: {retrain}"
        )
    if len(set(present)) < len(present):
        raise refused(f"config.json of {model.uri} names a label twice (id2label): {retrain}")
    several = config.get("problem_type") == _SEVERAL_LABELS
    if several is not spec.task.multi_label:
        raise refused(
            f"{model.uri} predicts {'any number of labels' if several else 'one label'} for a text (problem_type), and "
            f"task.multiLabel is {str(spec.task.multi_label).lower()}: {retrain}"
        )
    return tuple(present.index(label) for label in labels)


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(f"'{label[:40]}'" for label in labels[:_SHOWN]) + more


def _alternative(spec: FineTuneJobSpec, student: Student, other: str) -> str:
    """What to do with a teacher whose logits mean something else."""
    row = spec.task.type.row
    # The teacher of a model that writes nothing writes nothing either.
    learns = DistillationMode.RESPONSES not in row.not_distilled and student.family in row.generates
    return f"{other}, or mode {DistillationMode.RESPONSES}, which compares no logits" if learns else other


def refused(problem: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, f"{FIELD}: {problem}")
