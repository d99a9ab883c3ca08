"""LoRA on experts that a model stores as parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Precision, Quantization
from finetune_api.stage import Stage
from finetune_trainer.methods import method_of
from finetune_trainer.methods.adapters import restore
from finetune_trainer.modelling.loading import load
from finetune_trainer.tasks import form_of
from finetune_trainer.train.model import load_model
from tests.trainer.conftest import prepared
from tests.trainer.evaluation_fixtures import data_report
from tests.trainer.method_fixtures import TOKENS, as_published, attached, base_logits, disturb, logits, spec_of
from tests.trainer.stages import instruction_job
from tests.trainer.tiny_models import save_mixtral

BOTH = ["experts.gate_up_proj", "experts.down_proj"]
EXACT = {"atol": 1e-6, "rtol": 1e-6}


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mixtral(tmp_path_factory.mktemp("models") / "mixtral")


def lora_of(*parameters: str, **settings: Any) -> dict[str, Any]:
    """``spec.method`` for LoRA on these parameters."""
    return {"type": "LoRA", "lora": {"rank": 4, "dropout": 0, "targetParameters": list(parameters), **settings}}


def ranks(model: Any) -> dict[str, int]:
    """Rank by the name of each adapted parameter or module."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            path = [part for part in name.split(".")[2:] if part != "base_layer"]
            found[".".join([*path, *([module.parameter_name] if hasattr(module, "parameter_name") else [])])] = (
                module.r["default"]
            )
    return found


@pytest.mark.parametrize("parameters", [BOTH, BOTH[:1], BOTH[1:]], ids=["both", "gate_up_proj", "down_proj"])
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")  # PEFT looks for them among modules only.
def test_what_is_published_and_evaluated_is_what_was_trained(
    parameters: list[str], mixtral: Path, tmp_path: Path
) -> None:
    method = lora_of(*parameters, rankPattern={"layers.1.mlp.experts.*": 2})
    model = attached(mixtral, method)
    torch.testing.assert_close(logits(model), base_logits(mixtral), **EXACT)
    disturb(model)
    trained = logits(model)
    assert (trained - base_logits(mixtral)).abs().max() > 0.1
    published = as_published(model, mixtral, tmp_path, method)
    torch.testing.assert_close(logits(published), trained, **EXACT)
    torch.testing.assert_close(logits(published.merge_and_unload()), trained, atol=1e-5, rtol=0)
    evaluated = restore(load(AutoModelForCausalLM, mixtral, torch.float32, "base"), tmp_path)
    torch.testing.assert_close(logits(evaluated), trained, **EXACT)
    with evaluated.disable_adapter():
        assert torch.equal(logits(evaluated), base_logits(mixtral))


def test_only_the_named_experts_change_and_the_coverage_counts_them(mixtral: Path) -> None:
    model = attached(mixtral, lora_of("experts.down_proj"))
    coverage = method_of(spec_of(mixtral, lora_of()).method.type).coverage(model)
    assert coverage is not None
    assert coverage.modules == {"down_proj": 2} | {f"{name}_proj": 2 for name in "qkvo"}
    assert "experts.down_proj" not in coverage.left_out
    base = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(mixtral).parameters())
    attention, experts = 2 * (2 * 32 * 32 + 2 * 16 * 32), 2 * 4 * 64 * 32
    assert coverage.share == pytest.approx((attention + experts) / base)
    assert coverage.left_out["experts.gate_up_proj"] == pytest.approx(2 * experts / base)


def test_the_update_of_an_expert_has_the_rank(mixtral: Path) -> None:
    model = attached(mixtral, lora_of(*BOTH, rankPattern={"layers.0.mlp.experts.down_proj": 2, "o_proj": 3}))
    found = ranks(model)
    assert found["model.layers.0.self_attn.o_proj"] == 3
    assert found["model.layers.0.self_attn.q_proj"] == found["model.layers.1.mlp.experts.down_proj"] == 4
    disturb(model)
    experts = model.base_model.model.model.layers[0].mlp.experts
    for wrapper in (experts, experts.base_layer):
        rank = 2 if wrapper.parameter_name == "down_proj" else 4
        updates = wrapper.get_delta_weight("default")
        assert [int(torch.linalg.matrix_rank(update)) for update in updates] == [rank] * 4


def test_checkpointed_activations_give_the_same_gradients(mixtral: Path) -> None:
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = attached(mixtral, lora_of(*BOTH))
        disturb(model)
        if checkpointed:
            model.enable_input_require_grads()
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    plain, recomputed = gradients
    for name, gradient in plain.items():
        assert gradient is not None
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(recomputed[name], gradient, **EXACT)


@pytest.mark.parametrize("quantization", ["NF4", "Int8"])
def test_experts_beside_rounded_layers(quantization: str, mixtral: Path, tmp_path: Path) -> None:
    """bitsandbytes rounds linear layers, and leaves the experts as they are."""
    spec = spec_of(mixtral, lora_of(*BOTH))
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"quantization": Quantization(quantization)})})
    report = data_report(spec)
    form = form_of(spec.task.type, report.family)
    model = load_model(mixtral, spec, report, task=form, precision=Precision.BF16)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    disturb(model)
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
        model.eval()
        trained = logits(model)
        model.save_pretrained(tmp_path)
        config = model.config.quantization_config
        base: Any = AutoModelForCausalLM.from_pretrained(mixtral, dtype=torch.bfloat16, quantization_config=config)
        plain = PeftModel.from_pretrained(base, tmp_path).eval()
        torch.testing.assert_close(logits(plain), trained, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (lora_of("experts.w1"), "contains experts.w1, which MixtralForCausalLM does not have as a parameter with a "),
        (lora_of("experts.w1"), "use names from experts.down_proj, experts.gate_up_proj"),
        (lora_of("gate.weight"), "contains gate.weight, which"),
        (lora_of("q_proj.weight"), "contains q_proj.weight, which"),
        (lora_of(*BOTH, rankPattern={"experts.w1": 4}), "'experts.w1' fits no adapted module"),
        (
            lora_of("experts.down_proj", rank=1024, rankPattern={"self_attn.*": 4}),
            "rank is 1024, but .*at most rank 32",
        ),
    ],
)
def test_names_and_ranks_that_fit_no_experts_are_refused(lora: dict[str, Any], message: str, mixtral: Path) -> None:
    with pytest.raises(StageFailure, match=message) as caught:
        attached(mixtral, lora)
    assert caught.value.reason is Reason.BAD_CONFIGURATION


def test_a_model_without_experts_says_so(llama: Path) -> None:
    with pytest.raises(
        StageFailure, match=r"LlamaForCausalLM does not have .* it has none, so remove targetParameters"
    ):
        attached(llama, lora_of("experts.down_proj"))


def test_a_training_resumes_and_reports_the_experts(tmp_path: Path) -> None:
    job = instruction_job(tmp_path, examples=80)
    save_mixtral(tmp_path / "base", 0.02)
    training = {"maxSteps": 4, "checkpoint": {"everySteps": 2}}
    job = prepared(job.changed(method=lora_of(*BOTH), training=training))
    whole, resumed = job.named("experts-whole"), job.named("experts-resumed")
    outcome = whole.run(Stage.TRAIN)
    assert outcome.code == 0, outcome.log
    name = "step-00000002"
    shutil.copytree(whole.revision / "checkpoints" / name, resumed.revision / "checkpoints" / name)
    outcome = resumed.run(Stage.TRAIN, attempt=2, processes=2)
    assert outcome.code == 0, outcome.log
    assert resumed.losses() == pytest.approx(whole.losses(), rel=1e-4)
    assert whole.losses()[-1] < whole.losses()[0]
    mine, theirs = (load_file(run.revision / "trained" / "adapter_model.safetensors") for run in (resumed, whole))
    assert any("experts" in key for key in theirs)
    for key, weight in theirs.items():
        torch.testing.assert_close(mine[key], weight, rtol=1e-3, atol=1e-5)
    adapted = json.loads((resumed.revision / "trained" / "training.json").read_text())["adapted"]
    assert adapted["modules"]["gate_up_proj"] == adapted["modules"]["down_proj"] == 2
    rows = dict(method_of("LoRA").describe(spec_of(tmp_path / "base", lora_of(*BOTH))))  # type: ignore[arg-type]
    assert rows["Adapted experts"].startswith("experts.gate_up_proj, experts.down_proj; an engine that serves")
