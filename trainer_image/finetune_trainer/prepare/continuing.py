"""Continuing from a published adapter: checks it, and makes it a part of the prepared data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.known_rows import TestRows
from finetune_trainer.methods import method_of
from finetune_trainer.prepare.same_model import check_base, check_labels, check_quantization
from finetune_trainer.prepared import ContinuedAdapter, ModelIdentity
from finetune_trainer.published import Published, read_published
from finetune_trainer.row_hashes import Hashes, LearnedRows, read_learned
from finetune_trainer.tasks import form_of
from finetune_trainer.tasks.base import TaskForm

FIELD = "model.adapter"

_FILES = (layout.ADAPTER_CONFIG, layout.ADAPTER_WEIGHTS, layout.LEARNED_ROWS)


@dataclass(frozen=True)
class Continuing:
    """The adapter that training continues from, on local disk."""

    directory: Path
    published: Published
    spec: FineTuneJobSpec
    """The spec of the job with the method settings of the adapter."""

    @property
    def learned(self) -> LearnedRows:
        """The rows that the adapter was trained on."""
        return read_learned(self.directory)


def published_adapter(spec: FineTuneJobSpec) -> Published | None:
    """The artifact in ``model.adapter``; None if the job starts from the base model.

    Raises:
        StageFailure: As `finetune_trainer.published.read_published`.
    """
    source = spec.model.adapter
    return None if source is None else read_published(source.uri, source.digest, FIELD)


def continue_from(
    published: Published | None, spec: FineTuneJobSpec, model: ModelIdentity, form: TaskForm, output: Path
) -> Continuing | None:
    """Check that the job can continue from an adapter, and copy it to ``adapter/`` in ``output``.

    Args:
        published: The adapter; None if the job starts from the base model.
        spec: The spec of the job.
        model: The base model of the job.
        form: The task of the job.
        output: Directory of the prepared data.

    Raises:
        StageFailure: BadConfiguration when it is no adapter of this base model, method and task, or has other settings;
            BadData when its files are not those of its manifest; otherwise as functions of `storage`.
    """
    if published is None:
        return None
    origin = published.spec
    if not published.is_adapter:
        raise _refused(
            f"{published.uri} is a whole model, trained with method {origin.method.type}: set model.uri to it, and "
            "remove model.adapter"
        )
    if origin.method.type is not spec.method.type:
        raise _refused(
            f"{published.uri} was trained with method {origin.method.type}, and method.type is {spec.method.type}: use "
            "the same method"
        )
    of_adapter = form_of(origin.task.type, published.data.family).adapter_task
    if of_adapter != form.adapter_task:
        raise _refused(
            f"{published.uri} was trained for {origin.task.type}, whose model ends in another head ({of_adapter}) than "
            f"that of {spec.task.type} ({form.adapter_task}): train from the base model"
        )
    check_quantization(published, spec.model.quantization)
    check_base(published, model)
    directory = output / layout.ADAPTER_DIRECTORY
    published.fetch(directory, lambda path: path in _FILES)
    method = method_of(spec.method.type).continued(spec, origin, directory)
    return Continuing(directory, published, _valid(spec.model_copy(update={"method": method})))


def learned_before(continuing: Continuing | None) -> LearnedRows:
    """The rows that the weights were trained on before this job."""
    return LearnedRows() if continuing is None else continuing.learned


def continued_adapter(continuing: Continuing | None, labels: Sequence[str], test: Hashes) -> ContinuedAdapter | None:
    """What the data report says about the adapter, once the data is read.

    Args:
        continuing: The adapter; None if the job starts from the base model.
        labels: The labels of the job.
        test: The hashes of its test rows.

    Raises:
        StageFailure: BadConfiguration when the adapter has other labels.
    """
    if continuing is None:
        return None
    spec, published, learned = continuing.spec, continuing.published, continuing.learned
    check_labels(published, labels, multiple=spec.task.multi_label)
    return ContinuedAdapter(
        uri=published.uri,
        digest=published.manifest.digest,
        method=spec.method.model_dump(mode="json", exclude_none=True),
        knows_rows=learned.complete,
        learned_test_rows=int(TestRows.of(spec, test).learned_by(learned).sum()),
    )


def notes_on(continuing: Continuing | None) -> list[str]:
    """What the user should know about the adapter, as clauses."""
    if continuing is None:
        return []
    spec, learned = continuing.spec, continuing.learned
    settings = "; ".join(f"{name} {value}" for name, value in method_of(spec.method.type).describe(spec))
    notes = [f"training continues from the adapter {continuing.published.manifest.digest[:19]}… ({settings})"]
    if not learned.complete:
        notes.append("the adapter does not say which rows it was trained on: test examples may be among them")
    elif others := sorted(learned.by_task.keys() - {str(spec.task.type)}):
        notes.append(f"rows that the adapter learned for {', '.join(others)} cannot be compared with test examples")
    return notes


def _valid(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """``spec``, if the settings of the adapter fit the others."""
    try:
        return FineTuneJobSpec.model_validate_json(spec.model_dump_json(exclude_none=True))
    except ValidationError as error:
        details = error.errors()[0]
        message = (details.get("ctx") or {}).get("message") or details["msg"]
        raise _refused(f"its settings do not fit the job: {message}") from None


def _refused(problem: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, f"{FIELD}: {problem}")
