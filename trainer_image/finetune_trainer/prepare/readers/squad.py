"""The nested JSON of SQuAD 1.1 and 2.0: articles with paragraphs, each with the questions about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers.json_rows import items_after
from finetune_trainer.prepare.readers.values import Row, Values, type_name
from finetune_trainer.prepare.sources import DataFile

COLUMNS = ("id", "title", "context", "question", "answers", "is_impossible")
"""Columns of the rows: one a question. ``plausible_answers``, which are no answers, are not read."""

_SCALAR = r'(?:"(?:[^"\\]|\\.)*"|[^\s"{}\[\],]+)'
START = re.compile(rf'\s*\{{\s*(?:"(?!data")(?:[^"\\]|\\.)*"\s*:\s*{_SCALAR}\s*,\s*)*"data"\s*:\s*\[(?=\s*[{{\]])')
"""The beginning of a document, up to the first article: ``{"version": "v2.0", "data": [``."""


def rows(file: DataFile) -> Iterator[Row]:
    """Iterate over the questions; their numbers count from 1 in the file.

    Raises:
        StageFailure: BadData when the file is not valid JSON, or its nesting is not that of SQuAD.
    """
    number = 0
    for index, article in enumerate(items_after(file, START)):
        where = f"data[{index}]"
        if isinstance(article, BadRow):
            raise StageFailure(Reason.BAD_DATA, f"{file.uri}: {where}: {article}")
        for at, paragraph in enumerate(_objects(file, article, "paragraphs", where)):
            for question in _objects(file, paragraph, "qas", f"{where}.paragraphs[{at}]"):
                number += 1
                yield number, _row(article, paragraph, question)


def _row(article: Values, paragraph: Values, question: Values) -> Values:
    """The columns that the question has."""
    sources = {"title": article, "context": paragraph}
    values = {column: sources.get(column, question).get(column) for column in COLUMNS}
    present = {column: value for column, value in values.items() if value is not None}
    return {"answers": [], **present} if present.get("is_impossible") is True else present


def _objects(file: DataFile, parent: Mapping[str, Any], key: str, where: str) -> list[Values]:
    """The objects in the list ``parent[key]``."""
    listed = parent.get(key)
    if isinstance(listed, list) and all(isinstance(item, dict) for item in listed):
        return listed
    found = f"has no {key}" if listed is None else f"has {type_name(listed)} as {key}"
    raise StageFailure(
        Reason.BAD_DATA,
        f"{file.uri}: {where} {found}, but a JSON object with data is read as SQuAD: write data[].paragraphs[].qas[] "
        "with objects, or one JSON object per line",
    )
