"""The trainer's command line, with a configuration that it cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_trainer.command import main
from tests.builders import a_job


def test_unknown_task_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = json.loads(a_job().spec.model_dump_json(exclude_none=True)) | {"task": {"type": "Karaoke"}}
    config = {
        "job": {
            "namespace": "team-a",
            "name": "a",
            "uid": "1",
            "revision": 1,
            "specDigest": "sha256:0",
            "trainingRevision": 1,
            "trainingDigest": "sha256:0",
        },
        "stage": "prepare",
        "attempt": 1,
        "spec": spec,
        "world": {"workers": 1, "processesPerWorker": 1, "device": "cpu"},
    }
    path = tmp_path / "stage.json"
    path.write_text(json.dumps(config))
    assert main(["prepare", "--config", str(path)]) == 64
    expected = f"finetune_trainer: {path} is not a valid StageConfig: spec.task.type: Input should be 'TextClass"
    assert capsys.readouterr().err.startswith(expected)
