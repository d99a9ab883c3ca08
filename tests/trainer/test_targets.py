"""Which modules of real, tiny models get an adapter, and what is reported about the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
)

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Precision
from finetune_trainer.methods import method_of
from finetune_trainer.methods.adapters import restore
from finetune_trainer.modelling.loading import load
from finetune_trainer.tasks import form_of
from finetune_trainer.train.model import load_model
from tests.families.tiny import build, config_of
from tests.trainer.evaluation_fixtures import data_report
from tests.trainer.tiny_models import save_mixtral

Attach = Callable[..., Any]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def gpt2(directory: Path) -> Path:
    config = GPT2Config(vocab_size=47, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    return saved(GPT2LMHeadModel(config), directory / "gpt2")


@pytest.fixture(scope="module")
def gemma3(directory: Path) -> Path:
    return saved(build(config_of("gemma3", "CAUSAL_LM", {}), AutoModelForCausalLM), directory / "gemma3")


@pytest.fixture(scope="module")
def mixtral(directory: Path) -> Path:
    return save_mixtral(directory / "mixtral")


def saved(model: Any, directory: Path) -> Path:
    model.save_pretrained(directory)
    return directory


def attached(base: Path, task: str = "InstructionTuning", method: str = "LoRA", **lora: Any) -> Any:
    """The model with its method, as the train stage makes it."""
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": base.as_uri()},
            "task": {"type": task},
            "dataset": {"train": {"uri": "file:///train.jsonl"}},
            "method": {"type": method} | ({"lora": lora} if lora else {}),
            "output": {"uri": "file:///output"},
        },
        strict=False,
    )
    return load_model(
        base, spec, data_report(spec), task=form_of(spec.task.type, data_report(spec).family), precision=Precision.FP32
    )


def adapted(model: Any) -> set[str]:
    """Ends of the names of the modules with an adapter."""
    suffix = ".lora_A.default.weight"
    return {".".join(n.removesuffix(suffix).split(".")[-2:]) for n, _ in model.named_parameters() if n.endswith(suffix)}


def test_all_linear_adapts_conv1d_layers(gpt2: Path) -> None:
    layers = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    assert adapted(attached(gpt2, "TextClassification")) == layers


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["c_attn"], {"attn.c_attn"}),
        (["attn.c_proj"], {"attn.c_proj"}),
        (["h.0.mlp.c_fc", "c_attn"], {"mlp.c_fc", "attn.c_attn"}),
    ],
)
def test_target_modules_can_be_conv1d_layers(gpt2: Path, targets: list[str], expected: set[str]) -> None:
    assert adapted(attached(gpt2, "TextClassification", targetModules=targets)) == expected


def test_target_modules_can_be_embeddings(gpt2: Path) -> None:
    model = attached(gpt2, targetModules=["wte"])
    assert any("wte.lora_embedding_A" in name for name, _ in model.named_parameters())


def test_a_target_that_lora_cannot_adapt_is_refused_with_the_names_that_it_can(gpt2: Path) -> None:
    for target in ("attn", "q_proj", "ln_1"):
        with pytest.raises(StageFailure) as caught:
            attached(gpt2, "TextClassification", targetModules=["c_attn", target])
        assert caught.value.reason is Reason.BAD_CONFIGURATION
        assert f"targetModules contains {target}, which GPT2ForSequenceClassification does not have" in str(
            caught.value
        )
        assert "use all-linear or names from c_attn, c_fc, c_proj, wpe, wte" in str(caught.value)


def test_names_of_fused_experts_are_refused_as_targets(mixtral: Path) -> None:
    with pytest.raises(StageFailure, match="contains w1, which MixtralForCausalLM does not have"):
        attached(mixtral, targetModules=["w1"])


def test_all_linear_leaves_out_experts_that_are_parameters_and_says_so(mixtral: Path) -> None:
    model = attached(mixtral)
    assert adapted(model) == {f"self_attn.{name}_proj" for name in "qkvo"}
    coverage = method_of("LoRA").coverage(model)  # type: ignore[arg-type]
    assert coverage is not None
    assert coverage.modules == {"k_proj": 2, "o_proj": 2, "q_proj": 2, "v_proj": 2}
    experts = 2 * 4 * (2 * 64 * 32 + 32 * 64)
    base = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(mixtral).parameters())
    left_out = coverage.left_out
    assert left_out["experts.gate_up_proj"] + left_out["experts.down_proj"] == pytest.approx(experts / base)
    assert coverage.share == pytest.approx(2 * (2 * 32 * 32 + 2 * 16 * 32) / base)
    assert "k_proj" in coverage.changed
    assert "experts.gate_up_proj" in coverage.unchanged


def test_a_vision_tower_gets_no_adapter_and_full_finetuning_leaves_it_as_it_is(gemma3: Path) -> None:
    model = attached(gemma3)
    towers = [name for name, _ in model.named_parameters() if "lora_" in name and "language_model" not in name]
    assert towers == []
    assert "self_attn.q_proj" in adapted(model)
    full = attached(gemma3, method="Full")
    assert isinstance(full, Gemma3ForConditionalGeneration)
    frozen = {name for name, parameter in full.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in full.named_parameters() if "vision_tower" in name or "projector" in name}
    assert full(input_ids=torch.tensor([[5, 6, 7]])).logits.requires_grad


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_adapter_of_the_embeddings_contains_no_weights_of_the_base_model(gpt2: Path, tmp_path: Path) -> None:
    model = attached(gpt2, targetModules=["lm_head", "wte"])
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert {name.removeprefix("base_model.model.") for name in names} == {
        "lm_head.lora_A.weight",
        "lm_head.lora_B.weight",
        "transformer.wte.lora_embedding_A",
        "transformer.wte.lora_embedding_B",
    }
    base = load(AutoModelForCausalLM, gpt2, torch.float32, "base")
    assert set(get_peft_model_state_dict(restore(base, tmp_path), save_embedding_layers=False)) == names
