"""``finetune advise`` from end to end: the command, the real trainer, a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.test_cli_run import Desk, read_until


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path).write(steps=4)
    (tmp_path / "scratch").mkdir()
    desk.environment["TMPDIR"] = str(tmp_path / "scratch")
    return desk


def left(desk: Desk) -> list[str]:
    """What a command has left, besides the inputs."""
    return sorted(
        name for name in os.listdir(desk.root) if name not in ("base", "train.jsonl", "job.yaml", "scratch")
    ) + [str(path) for path in (desk.root / "scratch").iterdir() if path.name.startswith("finetune-")]


def test_methods_trials_and_models_and_nothing_is_left(desk: Desk) -> None:
    models = f"base,{desk.root / 'nothing'}"
    code, out, err = desk.finetune("advise", "job.yaml", "--try", "1", "--models", models, "-o", "json")
    assert code == 0, err
    found = json.loads(out)
    methods = {(one["method"], one["quantization"]): one for one in found["methods"]}
    (trial,) = found["trials"]
    tried = methods[(trial["method"], "None")]
    assert tried["rank"] == 1
    assert trial["trainedParameters"] == tried["trainedParameters"]
    assert trial["steps"] == 4
    assert trial["validationLoss"] > 0
    assert tried["memoryBytes"] == pytest.approx(trial["peakMemoryBytes"], rel=0.5)
    assert tried["seconds"] == trial["wholeTrainingSeconds"]
    assert tried["measuredIn"] == "tried"
    assert (found["recommendation"]["method"], found["recommendation"]["quantization"]) == (trial["method"], "None")
    assert {one["reason"].partition(",")[0] for one in found["refused"]} == {
        "model.quantization cannot be combined with method Full",
        "model.quantization cannot be combined with method IA3",
    }
    measured, missing = found["models"]
    assert measured["uri"] == (desk.root / "base").as_uri()
    assert 0 < measured["value"] <= 1
    assert "There is no model at" in missing["problem"]
    assert left(desk) == []


def test_ctrl_c_in_a_trial_leaves_nothing(desk: Desk) -> None:
    desk.write(steps=1000)
    with subprocess.Popen(
        [sys.executable, "-m", "finetune_cli.main", "advise", "job.yaml", "--try", "2"],
        cwd=desk.root,
        env=desk.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        read_until(process, lambda line: line.startswith("train: started"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "Stopped; nothing was stored."
    assert left(desk) == []
