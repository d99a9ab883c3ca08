"""What the evaluation will compare, as prepare finds it before a GPU is held."""

from __future__ import annotations

from pathlib import Path

from finetune_api import layout
from finetune_api.stage import StageConfig
from finetune_trainer import storage
from finetune_trainer.known_rows import (
    NO_PREVIOUS,
    UNKNOWN,
    TestRows,
    check_rest,
    lacks_previous,
    previous_artifact,
)
from finetune_trainer.prepared import DataReport
from finetune_trainer.row_hashes import LearnedRows, read_learned, read_test_rows


def measured_notes(config: StageConfig, report: DataReport, scratch: Path) -> list[str]:
    """Clauses about the previous model and the test rows that it was trained on.

    Args:
        config: The configuration of the stage.
        report: The report about the prepared data, which is in storage.
        scratch: Directory for downloads.

    Raises:
        StageFailure: BadData when too few test rows are left; otherwise as `previous_artifact`.
    """
    previous = previous_artifact(config, report)
    notes = [NO_PREVIOUS] if lacks_previous(config) else []
    if previous is None and report.continued is None:
        return notes
    models: list[LearnedRows] = []
    if report.continued is not None:
        name = f"{layout.ADAPTER_DIRECTORY}/{layout.LEARNED_ROWS}"
        if storage.exists(storage.join(config.layout.prepared, name)):
            storage.download_file(storage.join(config.layout.prepared, name), scratch / name)
        models.append(read_learned(scratch / layout.ADAPTER_DIRECTORY))
    if previous is not None:
        previous.fetch(scratch / "previous", lambda path: path == layout.LEARNED_ROWS)
        models.append(read_learned(scratch / "previous"))
        if not models[-1].complete:
            notes.append(UNKNOWN)
    storage.download_file(storage.join(config.layout.prepared, layout.TEST_ROWS), scratch / layout.TEST_ROWS)
    rows = TestRows.of(config.spec, read_test_rows(scratch))
    check_rest(config.spec, rows, *models)
    return [*rows.note(*models), *notes]
