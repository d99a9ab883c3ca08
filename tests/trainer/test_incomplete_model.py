"""A base model whose files lack weights that are not those of a new head."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from finetune_api.failures import ExitCode
from finetune_api.stage import Stage
from tests.trainer.stages import instruction_job


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_random_weights_are_not_trained(tmp_path: Path, method: str) -> None:
    """With LoRA, the random layer would be trained and published like a new head."""
    job = instruction_job(tmp_path, 40).changed(method={"type": method})
    weights = tmp_path / "base" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if name != "lm_head.weight"}
    save_file(kept, weights, metadata={"format": "pt"})
    assert job.run(Stage.PREPARE).code == ExitCode.DONE
    outcome = job.run(Stage.TRAIN)
    assert outcome.code == ExitCode.BAD_DATA, outcome.log
    assert outcome.report.error
    assert "lack 1 parameters, such as lm_head.weight, and would be random" in outcome.report.error.message
