"""Test rows that the teacher of a job was trained on, which it answers better than others."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

from finetune_api import layout
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer import storage
from finetune_trainer.prepare.teacher import Teacher
from finetune_trainer.row_hashes import Hashes, LearnedRows, read_learned


def taught_rows_note(teacher: Teacher | None, spec: FineTuneJobSpec, test: Hashes, scratch: Path) -> list[str]:
    """How many test rows the teacher was trained on, as a clause, if it is an artifact that says so.

    Args:
        teacher: The teacher; None if it is no model.
        spec: The spec of the job.
        test: The hashes of the test rows.
        scratch: Directory for the list of its rows; created when needed.

    Raises:
        StageFailure: The failures of storage.
    """
    if teacher is None or teacher.identity.uri.startswith("hf://"):  # No artifact is published there.
        return []
    found = int(_learned(teacher.identity.uri, scratch).of(str(spec.task.type), test).sum())
    if not found:
        return []
    return [
        f"the teacher was trained on {found:,} of {len(test):,} test examples, so that its scores are too good: "
        "measure it on rows that it does not know"
    ]


def _learned(uri: str, scratch: Path) -> LearnedRows:
    if layout.LEARNED_ROWS not in {path for path, _ in storage.list_files(uri)}:
        return LearnedRows(complete=False)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / layout.LEARNED_ROWS).write_bytes(storage.read_bytes(storage.join(uri, layout.LEARNED_ROWS)))
    try:
        return read_learned(scratch)
    except (ValueError, OSError, BadZipFile):  # Nobody has promised that the file is what its name says.
        return LearnedRows(complete=False)
