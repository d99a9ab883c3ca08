"""The prepare stage as a whole."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import Manifest
from finetune_api.spec import Deduplication, FineTuneJobSpec, TaskType
from finetune_api.stage import PrepareResult
from finetune_trainer import storage
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.manifests import TornDirectory, publish_directory, read_manifest
from finetune_trainer.models import LocalModel, fetch_model, identify_model
from finetune_trainer.prepare.arrays import int32s, integers
from finetune_trainer.prepare.problems import REPORTED_ROWS, Tally
from finetune_trainer.prepare.read import DataSet, read_data_set
from finetune_trainer.prepare.rows import MOST_LABELS, LabelledRows, schema_for, sorted_labels
from finetune_trainer.prepare.sources import DataFile, fetch_files
from finetune_trainer.prepare.splits import SPLITS, Selection, assign, check_processes, check_sizes
from finetune_trainer.prepare.spool import TableWriter, selected
from finetune_trainer.prepare.tokenise_chat import ChatTokeniser
from finetune_trainer.prepare.tokenise_text import TextTokeniser
from finetune_trainer.prepare.tokenizer import load_tokenizer, save_tokenizer
from finetune_trainer.prepared import REPORT_NAME, TOKENIZER_DIRECTORY, DataReport, ModelIdentity, SplitReport

LAYOUT = 1
"""Version of the prepared files; what another one wrote is not used again."""

DEFAULT_LENGTH = {TaskType.TEXT_CLASSIFICATION: 512, TaskType.INSTRUCTION_TUNING: 2048}
"""Most tokens of an example when neither the job nor the model says less."""

_LIBRARIES = ("huggingface-hub", "numpy", "pyarrow", "tokenizers", "transformers")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What the job names, on this machine."""

    files: dict[str, tuple[DataFile, ...]]
    """Files of train, and of each split with its own data."""
    model: LocalModel
    identity: ModelIdentity


def run(context: StageContext) -> PrepareResult:
    """Check, clean, split and tokenise the data, and store it at ``config.prepared_uri``.

    What an earlier attempt has stored there is used again if it was made of the same spec, data and model.

    Raises:
        StageFailure: BadData, BadConfiguration, NotFound, PermissionDenied, Unavailable or DiskFull.
    """
    config = context.config
    inputs = _fetch(context)
    provenance = _provenance(context, inputs)
    processes = config.spec.distributed.world_size
    present = _present(config.prepared_uri)
    if present is not None:
        if _origin(present.provenance) == _origin(provenance):
            log.info("%s is complete and of the same spec, data and model: used again", config.prepared_uri)
            report = DataReport.model_validate_json(storage.read_bytes(storage.join(config.prepared_uri, REPORT_NAME)))
            # The number of processes may have changed since; it is no part of what decides the result.
            check_processes(report.splits["train"].examples, processes)
            return _result(context, report, present)
        # Nobody has used it: this stage runs again only as long as the next one has not begun.
        log.info("%s is of other data or another model: made again", config.prepared_uri)
        storage.delete_tree(config.prepared_uri)
    output = context.workspace / "prepared"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    report = prepare(context, inputs, output)
    check_processes(report.splits["train"].examples, processes)
    context.reporter.progress("storing the prepared data")
    return _result(context, report, publish_directory(output, config.prepared_uri, provenance))


def prepare(context: StageContext, inputs: Inputs, output: Path) -> DataReport:
    """Write the prepared data into ``output``, an empty directory."""
    spec = context.config.spec
    length = sequence_length(spec, inputs.identity)
    chat = spec.task.type is TaskType.INSTRUCTION_TUNING
    context.reporter.progress("loading the tokenizer")
    tokenizer = load_tokenizer(inputs.model.path, spec.model.uri, chat=chat)
    tokeniser = ChatTokeniser(tokenizer, length) if chat else TextTokeniser(tokenizer, length)
    sets = _read(context, inputs, tokeniser)
    assignment = assign({name: data.keys for name, data in sets.items()}, spec.dataset, spec.training.seed)
    check_sizes(assignment, spec.dataset.train.uri)
    labels = _labels(spec, tokeniser)
    order = _order(labels, tokeniser)
    splits = {}
    for split, selection in assignment.splits.items():
        context.reporter.progress(f"writing the {split} split", 0, len(selection.rows), unit="examples")
        counts = _write(output / f"{split}.arrow", sets[selection.origin], selection, len(labels), order)
        splits[split] = _split_report(
            sets[selection.origin], selection, dict(zip(labels, counts.tolist(), strict=True))
        )
    save_tokenizer(tokenizer, output / TOKENIZER_DIRECTORY)
    report = DataReport(
        task=spec.task.type,
        labels=labels,
        max_sequence_length=length,
        splits={split: splits[split] for split in SPLITS},
        duplicates=sum(data.duplicates for data in sets.values()),
        leaked=assignment.leaked,
        invalid=sum(data.tally.invalid for data in sets.values()),
        invalid_rows=tuple(row for data in sets.values() for row in data.tally.reported)[:REPORTED_ROWS],
        sources=tuple(file.source for files in inputs.files.values() for file in files),
        model=inputs.identity,
    )
    document = json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (output / REPORT_NAME).write_text(document + "\n", encoding="utf-8")
    return report


def sequence_length(spec: FineTuneJobSpec, model: ModelIdentity) -> int:
    """Tokens of the longest example: what the job says, or the task's default within the model's limit.

    Raises:
        StageFailure: BadConfiguration when the job asks for more than the model knows.
    """
    asked, limit = spec.training.max_sequence_length, model.max_positions
    if asked is None:
        default = DEFAULT_LENGTH[spec.task.type]
        return default if limit is None else min(default, limit)
    if limit is not None and asked > limit:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"training.maxSequenceLength is {asked}, but {model.uri} knows at most {limit} positions: lower it to "
            f"{limit}",
        )
    return asked


def _fetch(context: StageContext) -> Inputs:
    spec = context.config.spec
    context.reporter.progress("fetching the data")
    files = {
        name: fetch_files(uri, spec.dataset.format, context.workspace / "data")
        for name, uri in _addresses(spec).items()
    }
    context.reporter.progress("fetching the model")
    model = fetch_model(spec.model, context.workspace / "model", weights=False)
    return Inputs(files=files, model=model, identity=identify_model(spec.model, model))


def _addresses(spec: FineTuneJobSpec) -> dict[str, str]:
    """Addresses of train, and of each split with its own data."""
    own = {"validation": spec.dataset.validation.uri, "test": spec.dataset.test.uri}
    return {"train": spec.dataset.train.uri, **{name: uri for name, uri in own.items() if uri is not None}}


def _read(context: StageContext, inputs: Inputs, tokeniser: ChatTokeniser | TextTokeniser) -> dict[str, DataSet]:
    spec = context.config.spec
    sets = {}
    labels: frozenset[str] | None = None
    for name, uri in _addresses(spec).items():
        activity = f"reading the {name} data"
        context.reporter.progress(activity, 0, unit="examples")
        schema = schema_for(spec, inputs.files[name])
        if isinstance(schema, LabelledRows) and labels is not None:
            schema = replace(schema, labels=labels, label_origin="the training data")
        sets[name] = read_data_set(
            inputs.files[name],
            schema,
            tokeniser,
            Tally(uri, spec.dataset.cleaning.drop_invalid),
            context.workspace / f"{name}.spool",
            deduplicate=spec.dataset.cleaning.deduplicate is not Deduplication.NONE,
            on_rows=partial(_say_rows, context.reporter, activity),
        )
        if isinstance(tokeniser, TextTokeniser) and spec.task.labels is None and labels is None:
            labels = _derived_labels(tokeniser, uri)
    return sets


def _say_rows(reporter: Reporter, activity: str, rows: int) -> None:
    reporter.progress(activity, rows, unit="examples")


def _derived_labels(tokeniser: TextTokeniser, uri: str) -> frozenset[str]:
    labels = frozenset(tokeniser.labels)
    if len(labels) == 1:
        raise StageFailure(
            Reason.BAD_DATA,
            f"Every row of {uri} has the label '{min(labels)}', so there is nothing to tell apart: add others",
        )
    if len(labels) > MOST_LABELS:
        raise StageFailure(
            Reason.BAD_DATA,
            f"The label column of {uri} has {len(labels)} different values, more than {MOST_LABELS}: name the right "
            "column in dataset.columns.label",
        )
    return labels


def _labels(spec: FineTuneJobSpec, tokeniser: ChatTokeniser | TextTokeniser) -> tuple[str, ...]:
    """Labels in order of their index; empty for other tasks."""
    if not isinstance(tokeniser, TextTokeniser):
        return ()
    return sorted_labels(tokeniser.labels) if spec.task.labels is None else spec.task.labels


def _order(labels: tuple[str, ...], tokeniser: ChatTokeniser | TextTokeniser) -> npt.NDArray[np.int32]:
    """Index of each label in order of appearance."""
    seen = tokeniser.labels if isinstance(tokeniser, TextTokeniser) else {}
    index = {label: place for place, label in enumerate(labels)}
    return np.asarray([index[label] for label in seen], np.int32)


def _write(
    path: Path, data: DataSet, selection: Selection, labels: int, order: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Write the rows of one split; the number of examples of each label, shape (labels,).

    ``order`` maps the place of a label in order of appearance to its index; without labels it is not looked at.
    """
    counts = np.zeros(labels, np.int64)
    with TableWriter(path, data.schema) as writer:
        for batch in selected(data.spool, np.asarray(selection.rows, np.int64)):
            if not labels:
                writer.write(batch)
                continue
            place = data.schema.get_field_index("label")
            indices = order[int32s(batch.column(place))]
            counts += np.bincount(indices, minlength=labels)
            writer.write(batch.set_column(place, data.schema.field(place), integers(indices)))
    return counts


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


def _provenance(context: StageContext, inputs: Inputs) -> dict[str, Any]:
    job = context.config.job
    return {
        "layout": LAYOUT,
        "job": {
            "namespace": job.namespace,
            "name": job.name,
            "uid": job.uid,
            "revision": job.revision,
            "specDigest": job.spec_digest,
        },
        "sources": {
            name: [file.source.model_dump(mode="json") for file in files] for name, files in inputs.files.items()
        },
        "model": inputs.identity.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
    }


def _origin(provenance: dict[str, Any]) -> dict[str, Any]:
    """What decides the prepared data: whoever ran the job, and with which versions, does not matter."""
    job = provenance.get("job")
    return {
        "spec": job.get("specDigest") if isinstance(job, dict) else None,
        **{name: provenance.get(name) for name in ("layout", "sources", "model")},
    }


def _present(uri: str) -> Manifest | None:
    try:
        return read_manifest(uri)
    except TornDirectory:
        storage.delete_tree(uri)
        return None


def _result(context: StageContext, report: DataReport, manifest: Manifest) -> PrepareResult:
    return PrepareResult(
        uri=context.config.prepared_uri,
        digest=manifest.digest,
        examples={name: split.examples for name, split in report.splits.items()},
        tokens=report.splits["train"].tokens,
        duplicates=report.duplicates + report.leaked,
        invalid=report.invalid,
        labels=len(report.labels) or None,
        parameters=report.model.parameters,
    )
