"""The files of models: weights that those of the base model lack, and tied weights in those of the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_api.failures import ExitCode
from finetune_api.stage import Stage
from tests.trainer.stages import instruction_job


def without_output_layer(directory: Path) -> None:
    weights = directory / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if name != "lm_head.weight"}
    save_file(kept, weights, metadata={"format": "pt"})


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_random_weights_are_not_trained(tmp_path: Path, method: str) -> None:
    """With LoRA, the random layer would be trained and published like a new head."""
    job = instruction_job(tmp_path, 40).changed(method={"type": method})
    without_output_layer(tmp_path / "base")
    assert job.run(Stage.PREPARE).code == ExitCode.DONE
    outcome = job.run(Stage.TRAIN)
    assert outcome.code == ExitCode.BAD_DATA, outcome.log
    assert outcome.report.error
    assert "lack 1 parameters, such as lm_head.weight, and would be random" in outcome.report.error.message


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    """With DeepSpeed, which gathers copies of them."""
    job = instruction_job(tmp_path, 40).changed(method={"type": "Full"}, training={"maxSteps": 2})
    without_output_layer(tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    for stage in (Stage.PREPARE, Stage.TRAIN):
        outcome = job.run(stage)
        assert outcome.code == ExitCode.DONE, outcome.log
    trained = job.revision / "trained"
    assert "lm_head.weight" not in load_file(trained / "model.safetensors")
    again = AutoModelForCausalLM.from_pretrained(trained)
    assert again.lm_head.weight is again.model.embed_tokens.weight
