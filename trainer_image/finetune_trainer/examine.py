"""``finetune_trainer examine``: which task a data file is for, and which of its columns have which meaning.

Standard input is ``{"uri": …}``. Standard output has ``task``, ``columns`` (those that differ from the default),
``readAs`` (format and form of the rows), ``facts``, ``settings`` of spec.task, ``open`` (what the user has to fill in),
``names`` of all columns, ``notes``, ``preference`` (settings of spec.method.preference), for text files ``documents``
(what is probably one document), and for few rows ``test`` (settings of spec.dataset.test with which a job can run).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DatasetSpec, Documents
from finetune_api.tables.tasks import TaskType
from finetune_trainer.prepare.fetch import fetch_data
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import columns_of, read_rows
from finetune_trainer.prepare.rows import listed_columns
from finetune_trainer.prepare.sources import DataFile, FileKind
from finetune_trainer.prepare.splits import TEST
from finetune_trainer.requests import respond
from finetune_trainer.tasks import task_of
from finetune_trainer.tasks.base import Recognised, several

_SAMPLE = 1000
_FEWEST_ROWS = 12
"""Five of them are the fewest that a test split has by default, and as many are left for training."""
_ENOUGH_DOCUMENTS = 50
"""A tenth of them is a test split of five."""


def main(_: list[str]) -> int:
    """Answer the request on standard input; returns the exit code."""
    return respond(lambda request, scratch: examine(str(json.loads(request)["uri"]), scratch))


def examine(uri: str, scratch: Path) -> dict[str, Any]:
    """What the data at ``uri`` is.

    Raises:
        StageFailure: BadData when it has no rows, or is for no task; BadConfiguration when ``uri`` is no address;
            otherwise as `fetch_data`.
    """
    try:
        dataset = DatasetSpec.model_validate_json(json.dumps({"train": {"uri": uri}}))
    except ValidationError:
        raise StageFailure(Reason.BAD_CONFIGURATION, f"{uri} is not a valid address of data") from None
    fetched = fetch_data(dataset, scratch, tuple(FileKind))
    first = fetched.files["train"][0]
    documents = _documents(fetched.files["train"]) if first.kind is FileKind.TEXT else None
    if documents:
        first = replace(first, form=replace(first.form, documents=documents))
    names = columns_of(first)
    if not names:
        raise StageFailure(Reason.BAD_DATA, f"{uri} has no rows that can be read")
    read = list(islice(read_rows(first, names), _SAMPLE))
    rows = [values for _, values in read if not isinstance(values, BadRow)]
    bad = next((f"{first.at(number)}: {values}" for number, values in read if isinstance(values, BadRow)), None)
    if not rows:
        why = f"; {bad}" if bad else ", only a header" if names and not documents else ""
        raise StageFailure(Reason.BAD_DATA, f"{uri} has no rows that can be read{why}")
    # The first row of JSON lines may lack a key, or have one of its own.
    keys = Counter(key for values in rows for key in values)
    present = [name for name in dict.fromkeys((*names, *keys)) if several(keys[name], len(rows))]
    found = [(task, guess) for task in TaskType if (guess := task_of(task).recognise(present, rows))]
    if not found:
        raise StageFailure(
            Reason.BAD_DATA,
            f"No task is recognised from the columns of {uri} ({', '.join(present)[:200]}) and its first {len(rows):,} "
            f"rows{f' ({bad})' if bad else ''}: rename the columns, or write the manifest by hand and set "
            "dataset.columns; labels have to occur several times",
        )
    # Rows that need a setting of the method are otherwise like those of another task. Of two others that are certain,
    # the one that has a meaning for more columns, and then the one that finds out more.
    task, guess = max(
        found, key=lambda pair: (pair[1].certain, bool(pair[1].preference), len(pair[1].columns), len(pair[1].settings))
    )
    unused = [name for name in present if name not in {*guess.columns.values(), *guess.reads}]
    rows_of_job = _SAMPLE if TEST in fetched.files else _count(fetched.files["train"], names, documents)
    test, small = small_test(rows_of_job, dataset)
    return {
        "task": str(task),
        "columns": _different(guess),
        "readAs": "; ".join(part for part in (str(first.form), guess.form) if part),
        "facts": guess.facts,
        "settings": dict(guess.settings),
        "open": guess.open,
        "names": present,
        "notes": [*fetched.notes, *_unused(unused), *small],
        "preference": dict(guess.preference),
        "test": test,
        "documents": documents and str(documents),
    }


def small_test(rows: int, dataset: DatasetSpec) -> tuple[dict[str, Any], list[str]]:
    """Settings of dataset.test with which a job on few ``rows`` can run, and a note; both are empty for more rows.

    Args:
        rows: Different rows of the data.
        dataset: A dataset with the default settings.
    """
    minimum = dataset.test.minimum_examples
    if round(rows * (dataset.test.fraction or 0.0)) >= minimum:
        return {}, []
    if rows < _FEWEST_ROWS:
        return {}, [f"{rows} different rows are too few for a job, which needs at least {_FEWEST_ROWS}; add data first"]
    note = f"{rows} different rows are few: the test split has about {minimum} of them, which measure little; add data"
    return {"fraction": math.ceil(100 * minimum / rows) / 100}, [note]


def _count(files: Sequence[DataFile], names: tuple[str, ...], documents: Documents | None) -> int:
    """Number of different rows, but at most those of the sample."""
    if documents:
        files = [replace(file, form=replace(file.form, documents=documents)) for file in files]
    rows = (values for file in files for _, values in read_rows(file, names) if not isinstance(values, BadRow))
    return len({json.dumps(dict(values), default=str, sort_keys=True) for values in islice(rows, _SAMPLE)})


def _documents(files: Sequence[DataFile]) -> Documents:
    """What is probably one document of text files: the first that makes enough of them for three splits."""
    counts = {}
    for documents in Documents:
        divided = (replace(file, form=replace(file.form, documents=documents)) for file in files)
        rows = (row for file in divided for row in read_rows(file, ()))
        counts[documents] = sum(1 for _ in islice(rows, _ENOUGH_DOCUMENTS))
    return max(counts, key=lambda documents: counts[documents])


def _unused(names: Sequence[str]) -> list[str]:
    """A note on the columns of the data that the task does not read."""
    return [f"the task does not use the column{'s' if len(names) > 1 else ''} {listed_columns(names)}"] if names else []


def _different(guess: Recognised) -> Mapping[str, str]:
    """The columns whose names are not those of the fields."""
    return {field: column for field, column in guess.columns.items() if column != field}
