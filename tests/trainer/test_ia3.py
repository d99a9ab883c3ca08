"""IA3 on real, tiny models: which layers it scales, what is published, and a whole job."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, ModernBertConfig

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import Stage
from tests.trainer.method_fixtures import as_published, attached, base_logits, disturb, logits
from tests.trainer.stages import TinyJob
from tests.trainer.tiny_models import make_tokenizer

IA3 = {"type": "IA3"}


@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_what_is_published_is_what_was_trained(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    directory: Path = request.getfixturevalue(base)
    model = attached(directory, IA3)
    assert torch.equal(logits(model), base_logits(directory))
    disturb(model)
    trained = logits(model)
    assert (trained - base_logits(directory)).abs().max() > 0.05
    published = as_published(model, directory, tmp_path, IA3)
    torch.testing.assert_close(logits(published), trained, atol=1e-5, rtol=0)
    merged = published.merge_and_unload()
    torch.testing.assert_close(logits(merged), trained, atol=1e-4, rtol=0)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["feedforward_modules"]
    assert set(config["feedforward_modules"]) < set(config["target_modules"])


def test_the_factors_are_as_many_as_the_widths(llama: Path) -> None:
    model = attached(llama, IA3)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # Keys and values of width 32, and the input of down_proj, in each of two layers.
    assert trained == 2 * (32 + 32 + 64)


def test_layers_by_name(llama: Path) -> None:
    settings = {"targetModules": ["q_proj", "up_proj"], "feedforwardModules": ["up_proj"]}
    model = attached(llama, {"type": "IA3", "ia3": settings})
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters() if "ia3_l" in name}
    assert sorted(math.prod(shape) for shape in shapes.values()) == [32, 32, 32, 32]
    assert {shape for name, shape in shapes.items() if "up_proj" in name} == {(1, 32)}


def test_a_layer_that_does_not_exist_is_refused(llama: Path) -> None:
    settings = {"targetModules": ["query"], "feedforwardModules": []}
    with pytest.raises(StageFailure, match=r"method\.ia3\.targetModules contains query, .*: use names from down_proj,"):
        attached(llama, {"type": "IA3", "ia3": settings})


def test_a_job_is_published_with_its_head(classification: TinyJob) -> None:
    job = classification.named("scaled", method=IA3, training={"learningRate": 0.02})
    for stage in (Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH):
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    weights = load_file(job.artifact / "adapter_model.safetensors")
    assert any("classifier" in name for name in weights)
    assert any("ia3_l" in name for name in weights)
    assert "IA3" in (job.artifact / "README.md").read_text()


def test_weight_decay_does_not_pull_factors_towards_0(classification: TinyJob) -> None:
    training = {"maxSteps": 1, "learningRate": 0.01, "warmupSteps": 0, "schedule": "Constant", "weightDecay": 1}
    job = classification.named("decayed", method=IA3, training=training)
    outcome = job.run(Stage.TRAIN)
    assert outcome.code == 0, outcome.log
    weights = load_file(job.revision / "trained" / "adapter_model.safetensors")
    # They start at 1, and the first step of Adam has the size of the learning rate.
    moved = torch.cat([(weight - 1).flatten() for name, weight in weights.items() if "ia3_l" in name])
    assert moved.abs().max() == pytest.approx(0.01, rel=1e-3)
    assert moved.max() == pytest.approx(0.01, rel=1e-3)


def test_a_model_without_default_layers_is_refused_before_a_gpu_is_held(
    classification: TinyJob, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=0,
        max_position_embeddings=64,
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    spec = classification.changed(method=IA3, model={"uri": (tmp_path / "base").as_uri()}).spec
    outcome = TinyJob(tmp_path, spec | {"output": {"uri": (tmp_path / "storage").as_uri()}}).run(Stage.PREPARE)
    assert outcome.report.error is not None
    assert outcome.report.error.reason is Reason.BAD_CONFIGURATION
    assert "IA3 has no default layers for models of type modernbert" in outcome.message
    assert "Wqkv" in outcome.message
