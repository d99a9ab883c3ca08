"""What the tuned model is measured against, and on which test rows, if it is not the first of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_api import layout
from finetune_api.spec import BaselineChoice
from finetune_api.stage import StageConfig
from finetune_trainer.evaluate.comparison import SPLIT, PreviousModel
from finetune_trainer.known_rows import (
    NO_PREVIOUS,
    UNKNOWN,
    TestRows,
    adapter_of,
    check_rest,
    lacks_previous,
    previous_artifact,
)
from finetune_trainer.methods import method_of
from finetune_trainer.prepared import DataReport
from finetune_trainer.row_hashes import LearnedRows, read_learned, read_test_rows
from finetune_trainer.splits import open_split


@dataclass(frozen=True)
class Against:
    """What the tuned model is measured against."""

    start: Path | None
    """The adapter that training continued from."""
    previous: PreviousModel | None
    """The baseline, if it is a model that was published before."""
    details: dict[str, Any]
    """For evaluation.json."""
    data: DataReport
    """The report about the prepared data, with room for the virtual tokens of both models."""
    notes: tuple[str, ...]
    """Clauses for people."""


def measured_against(config: StageConfig, data: DataReport, prepared: Path, scratch: Path) -> Against:
    """Fetch the previous model, and remove the test rows that earlier models were trained on.

    Args:
        config: The configuration of the stage.
        data: The report about the prepared data.
        prepared: A copy of the prepared data, which is changed.
        scratch: Directory for the previous model.

    Raises:
        StageFailure: NotFound, BadConfiguration or BadData when the previous model is not there, cannot be compared, or
            leaves too few test rows; otherwise as functions of `storage`.
    """
    start = adapter_of(prepared) if data.continued else None
    previous = _previous(config, data, start, scratch)
    notes = [NO_PREVIOUS] if lacks_previous(config) else []
    details: dict[str, Any] = {}
    if learned := _learned(start, previous):
        rows = TestRows.of(config.spec, read_test_rows(prepared))
        check_rest(config.spec, rows, *learned)
        details["learnedBefore"] = _leave_out(prepared, rows, learned)
        notes += rows.note(*learned)
        if not details["learnedBefore"]["known"]:
            notes.append(UNKNOWN)
    if previous is not None:
        details["previous"] = dict(previous.details)
    if data.continued:
        details["continuedFrom"] = {"uri": data.continued.uri, "digest": data.continued.digest}
    return Against(start, previous, details, _with_room(data, previous), tuple(notes))


def _previous(config: StageConfig, data: DataReport, start: Path | None, scratch: Path) -> PreviousModel | None:
    if config.spec.evaluation.baseline is not BaselineChoice.PREVIOUS:
        return None
    if start is not None and data.continued is not None:
        details = {"uri": data.continued.uri, "digest": data.continued.digest}
        method = method_of(config.spec.method.type)
        return PreviousModel(start, method, details, read_learned(start), data.virtual_tokens)
    published = previous_artifact(config, data)
    if published is None or config.previous is None:
        return None
    published.fetch(scratch)
    details = config.previous.model_dump(mode="json")
    return PreviousModel(
        scratch,
        method_of(published.spec.method.type),
        details,
        read_learned(scratch),
        published.spec.method.virtual_tokens,
    )


def _with_room(data: DataReport, previous: PreviousModel | None) -> DataReport:
    """``data`` with the virtual tokens of the previous model, if it has more: both answer under the same conditions."""
    if previous is None or previous.virtual_tokens <= data.virtual_tokens:
        return data
    handling = data.handling.model_copy(update={"batched_generation": False})
    return data.model_copy(update={"virtual_tokens": previous.virtual_tokens, "handling": handling})


def _learned(start: Path | None, previous: PreviousModel | None) -> list[LearnedRows]:
    """The rows that the start of the training and the baseline were trained on."""
    found = [] if start is None else [read_learned(start)]
    if previous is not None and previous.directory != start:
        found.append(previous.learned)
    return found


def _leave_out(prepared: Path, rows: TestRows, learned: list[LearnedRows]) -> dict[str, Any]:
    """Remove the test rows that ``learned`` has; returns what evaluation.json says about them."""
    left_out = rows.left_out(*learned)
    if left_out.any():
        _keep(prepared, ~left_out)
    others = sorted({task for model in learned for task in model.by_task} - {rows.task})
    return {
        "testRows": int(rows.learned_by(*learned).sum()),
        "leftOut": int(left_out.sum()),
        "of": len(left_out),
        "known": all(model.complete for model in learned),
        **({"notComparable": others} if others else {}),
    }


def _keep(prepared: Path, kept: np.typing.NDArray[np.bool_]) -> None:
    """Keep only some rows of the test split, of shape (rows,)."""
    path = prepared / layout.split_file(SPLIT)
    table = open_split(prepared, SPLIT).filter(pa.array(kept)).combine_chunks()
    rest = path.with_suffix(".rest")
    with pa.OSFile(str(rest), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    rest.replace(path)
