"""How the work of a stage reports what it does."""

from __future__ import annotations

import os
from pathlib import Path

from finetune_api.events import AliveEvent, EvaluationEvent, ProgressEvent, read_event
from finetune_trainer.context import PartReporter, Reporter


def test_a_part_of_an_activity_reports_its_counts_only_as_a_sign_of_life(tmp_path: Path) -> None:
    path, score = tmp_path / "events", EvaluationEvent(model="tuned", metric="accuracy", value=0.5)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    whole = Reporter(descriptor)
    whole.progress("scoring", 1, 12, "combinations")
    part = PartReporter(whole)
    part.progress("running the tests", 3, 100, "programs")
    part.send(score)
    os.close(descriptor)
    found = [read_event(line) for line in path.read_bytes().splitlines()]
    assert found == [ProgressEvent(activity="scoring", done=1, total=12, unit="combinations"), AliveEvent(), score]
