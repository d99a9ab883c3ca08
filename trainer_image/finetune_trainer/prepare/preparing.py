"""Prepares the data of a job: reads, checks, divides, tokenises and writes it, and says what it has found."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api import layout
from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.base_content import content_of
from finetune_trainer.context import StageContext
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.families import decide_handling, family_of, load_families
from finetune_trainer.modelling.tokenizer import chat_templates, save_tokenizer
from finetune_trainer.models import read_config, read_generation_config, vocabulary_size
from finetune_trainer.patches.transformers import fix_template_date
from finetune_trainer.prepare.continuing import continue_from, continued_adapter, learned_before, notes_on
from finetune_trainer.prepare.divided import divided_rows
from finetune_trainer.prepare.family_settings import check_settings
from finetune_trainer.prepare.inputs import Inputs
from finetune_trainer.prepare.lengths import sequence_length
from finetune_trainer.prepare.method_trial import check_method
from finetune_trainer.prepare.notes import (
    contradictions,
    few_steps,
    generation_limits,
    truncations,
    unknown_tokens,
)
from finetune_trainer.prepare.problems import REPORTED_ROWS, dropped
from finetune_trainer.prepare.read import DataSet
from finetune_trainer.prepare.slices import without_slices
from finetune_trainer.prepare.special_tokens import choose_ends, choose_padding, end_notes
from finetune_trainer.prepare.splits import SPLITS, TEST, Assignment, Selection, check_processes
from finetune_trainer.prepare.spool import TableWriter, selected
from finetune_trainer.prepare.taught_rows import taught_rows_note
from finetune_trainer.prepare.teacher import Student, fitting_teacher, taught_by
from finetune_trainer.prepared import DataReport, SplitReport, positions_left
from finetune_trainer.row_hashes import write_test_rows
from finetune_trainer.tasks import form_for
from finetune_trainer.tasks.base import Preparation
from finetune_trainer.teachers import generating_teacher
from finetune_trainer.teaching.answering import OpenAnswering
from finetune_trainer.teaching.generating import open_teacher

log = logging.getLogger(__name__)


def prepare(context: StageContext, inputs: Inputs, answering: OpenAnswering | None) -> tuple[DataReport, Path]:
    """Prepare the data.

    Args:
        context: The context of the stage.
        inputs: The inputs of the job.
        answering: Opens what answers for the teacher; None if nothing does in this stage. Then a job whose teacher
            answers only gets a report.

    Returns:
        The report, and the directory with it and the prepared data.

    Raises:
        StageFailure: As `run`.
    """
    output = context.workspace / "prepared"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    report = _prepared(context, inputs, answering, output)
    check_world(spec=context.config.spec, report=report)
    return report, output


def _prepared(context: StageContext, inputs: Inputs, answering: OpenAnswering | None, output: Path) -> DataReport:
    """Prepare the data and write it to ``output``, an empty directory."""
    spec = context.config.spec
    config = read_config(inputs.model.path, spec.model.uri)
    family = family_for(spec, config)
    check_settings(spec, family)
    task = form_for(spec, family)
    handling_for = partial(
        decide_handling,
        load_families(),
        spec,
        config,
        adapter_task=task.adapter_task,
        family=family,
        installed=version("transformers"),
    )
    handling_for(labels=())  # Refuses a model that cannot be tuned before the data is read.
    generating = open_teacher(inputs.teacher, spec) if generating_teacher(spec) and inputs.teacher else None
    identity = inputs.identity.model_copy(update={"content": content_of(spec.model, inputs.model)})
    continuing = continue_from(inputs.adapter, spec, identity, task, output)
    spec = spec if continuing is None else continuing.spec
    length = sequence_length(spec, family, inputs.identity)
    context.reporter.progress("loading the tokenizer")
    tokenizer = task.load_tokenizer(inputs.model.path, spec)
    start = method_of(spec.method.type).initial_tokens(spec, tokenizer)
    vocabulary = vocabulary_size(config)
    padding = choose_padding(tokenizer, vocabulary)
    student = Student(family=family, form=task, config=config, tokenizer=tokenizer, length=length, padding=padding)
    fitting = fitting_teacher(inputs.teacher, spec, student)
    today = datetime.now(UTC).date()
    dated = task.uses_chat_template and [one for one in chat_templates(tokenizer) if fix_template_date(one, today)]
    preparation = task.preparation(spec, tokenizer, length, config)
    rows = divided_rows(context, inputs, preparation, tokenizer.unk_token_id, output, open_answering=answering)
    sets, assignment, hashes = rows.sets, rows.assignment, rows.hashes
    _check_vocabulary(sets, vocabulary, spec.model.uri)
    splits, all_labels = _write_splits(context, preparation, sets, assignment, output)
    learned_before(continuing).with_rows(str(spec.task.type), hashes["train"]).write(output)
    write_test_rows(output, hashes[TEST])
    generation = read_generation_config(inputs.model.path, spec.model.uri)
    ends = choose_ends(tokenizer, preparation.answers, config, generation)
    contradicting = sum(data.contradicting for data in sets.values())
    taught = taught_by(
        fitting,
        spec,
        student,
        handling=handling_for(labels=preparation.labels),
        highest_token=max(data.highest_token for data in sets.values()),
        labels=preparation.labels,
    )
    notes = [
        *rows.notes,
        *notes_on(continuing),
        *method_of(spec.method.type).check_data(spec, splits["train"].examples),
        *inputs.data.notes,
        *taught.handling.notes,
        *taught.notes,
        *taught_rows_note(inputs.teacher, spec, hashes[TEST], context.workspace / "teacher-rows"),
        *start.notes,
        *dropped(data.tally for data in sets.values()),
        *unknown_tokens(sets),
        *contradictions(contradicting, spec.dataset.cleaning.deduplicate),
        *truncations(splits, length, positions_left(inputs.identity, spec.method.virtual_tokens)),
        *end_notes(tokenizer, ends, preparation.answers),
        *preparation.notes(all_labels),
        *generation_limits(spec, family, length, inputs.identity),
        *few_steps(spec, splits["train"], length, packing=taught.handling.packing),
    ]
    for note in notes:
        log.warning("%s", note)
    save_tokenizer(tokenizer, output / layout.TOKENIZER_DIRECTORY)
    report = DataReport(
        task=spec.task.type,
        family=family,
        labels=preparation.labels,
        multi_label=spec.task.multi_label,
        max_sequence_length=length,
        virtual_tokens=spec.method.virtual_tokens,
        initial_tokens=start.tokens,
        padding=padding,
        end_tokens=ends,
        start_tokens=preparation.answers.start,
        prefix=preparation.prefix,
        generation=dict(task.generation(tokenizer, config, generation)),
        template_date=today.isoformat() if dated else None,
        splits={split: splits[split] for split in SPLITS},
        duplicates=sum(data.duplicates for data in sets.values()),
        contradicting=contradicting,
        notes=tuple(notes),
        leaked=assignment.leaked,
        invalid=sum(data.tally.invalid for data in sets.values()),
        invalid_rows=tuple(row for data in sets.values() for row in data.tally.reported)[:REPORTED_ROWS],
        sources=tuple(file.source for files in inputs.data.files.values() for file in files),
        inputs_digest=inputs.digest,
        rows=preparation.rows,
        model=identity,
        handling=taught.handling,
        continued=continued_adapter(continuing, preparation.labels, hashes[TEST]),
        teacher=generating.report if generating else taught.report,
        responses=rows.responses,
    )
    log.info("read as %s", report.detected)
    report = check_method(
        spec,
        inputs.model.path,
        report,
        task,
        context.reporter,
        adapter=continuing.directory if continuing else None,
    )
    document = json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (output / layout.DATA_REPORT).write_text(document + "\n", encoding="utf-8")
    return report


def family_for(spec: FineTuneJobSpec, config: Mapping[str, Any]) -> ModelFamily:
    """The family of the model with ``config``."""
    return family_of(load_families(), config, spec.method.type.row.known_families(spec.task.type))


def check_world(spec: FineTuneJobSpec, report: DataReport) -> None:
    """Check that there is a training row for every process; see `check_processes`.

    Raises:
        StageFailure: BadConfiguration when there is none.
    """
    train, processes = report.splits["train"], spec.distributed.world_size
    if spec.task.type.row.joins:
        check_processes(-(-train.tokens // report.max_sequence_length), processes, "row")
    else:
        check_processes(train.examples, processes, "example")


def _check_vocabulary(sets: Mapping[str, DataSet], vocabulary: int | None, model_uri: str) -> None:
    """Check that the model has an embedding for every token.

    Raises:
        StageFailure: BadConfiguration when it lacks one.
    """
    highest = max(data.highest_token for data in sets.values())
    if vocabulary is not None and highest >= vocabulary:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The data contains token id {highest}, but {model_uri} has {vocabulary} token embeddings: use the "
            "tokenizer of this model",
        )


def _write_splits(
    context: StageContext,
    preparation: Preparation,
    sets: Mapping[str, DataSet],
    assignment: Assignment,
    output: Path,
) -> tuple[dict[str, SplitReport], Counter[str]]:
    """Write each split to ``output``; returns their reports, and the examples by label in all of them."""
    splits = {}
    all_labels: Counter[str] = Counter()
    for split, selection in assignment.splits.items():
        context.reporter.progress(f"writing the {split} split", 0, len(selection.rows), unit="examples")
        data = sets[selection.origin]
        label_counts = Counter(dict.fromkeys(preparation.labels, 0))
        schema = data.schema if split == TEST else without_slices(data.schema)
        with TableWriter(output / layout.split_file(split), schema) as writer:
            for batch in selected(data.spool, np.asarray(selection.rows, np.int64)):
                writer.write(preparation.finish(batch.select(schema.names), split, label_counts))
        splits[split] = _split_report(data, selection, dict(label_counts))
        all_labels.update(label_counts)
    return splits, all_labels


def _split_report(data: DataSet, selection: Selection, label_counts: dict[str, int]) -> SplitReport:
    lengths = data.lengths[selection.rows]
    p50, p90, p99, longest = np.quantile(lengths, (0.5, 0.9, 0.99, 1), method="higher")
    return SplitReport(
        examples=len(lengths),
        tokens=int(lengths.sum()),
        truncated=int(data.truncated[selection.rows].sum()),
        length_quantiles={"p50": int(p50), "p90": int(p90), "p99": int(p99), "max": int(longest)},
        label_counts=label_counts,
    )
