"""Other computations of the same results: the loss from hidden states, norms, compiled layers, and what memory needs.

The kernels of Liger run on GPUs only; references with their interface take their place. `tests/gpu` has the kernels.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import Device, Stage
from finetune_api.tables.tasks import ModelFamily, TaskType
from finetune_trainer.modelling.fused_loss import FusedLoss, agrees, plain_output, reference
from finetune_trainer.modelling.fused_norms import Form, fuse_norms
from finetune_trainer.modelling.packed_attention import PackedAttention
from finetune_trainer.tasks import form_of
from finetune_trainer.train.acceleration import Acceleration
from finetune_trainer.train.compiling import compile_layers, require_compiler
from finetune_trainer.train.memory import fits
from tests.families.tiny import build, config_of
from tests.trainer.method_fixtures import TOKENS, attached, disturb, logits
from tests.trainer.stages import TinyJob

CPU = torch.device("cpu")


def tiny(kind: str, **variant: Any) -> Any:
    return build(config_of(kind, "CAUSAL_LM", variant), AutoModelForCausalLM)


class TestLoss:
    @pytest.mark.parametrize("method", [{"type": "LoRA", "lora": {"dropout": 0}}, {"type": "Full"}])
    def test_loss_and_gradients_are_those_of_the_task(self, method: dict[str, Any], llama: Path) -> None:
        model = attached(llama, method)
        disturb(model)
        labels = TOKENS.clone()
        labels[0, :3] = -100
        form = form_of(TaskType.INSTRUCTION_TUNING, ModelFamily.CAUSAL)
        found = []
        for fused in (None, FusedLoss(plain_output(model), reference, torch.float32)):  # type: ignore[arg-type]
            model.zero_grad()
            if fused is None:
                loss = form.loss(model(input_ids=TOKENS).logits, labels, torch.tensor(7))
            else:
                with fused.hidden_states():
                    states = model(input_ids=TOKENS).logits
                    assert states.shape[-1] == 32
                    loss = fused.loss(states, labels, torch.tensor(7))
            loss.backward()
            found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        assert len(found[0]) == len(found[1]) > 2
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        assert logits(model).shape[-1] > 32, "after the step the model gives logits"

    def test_a_row_without_labels_has_no_loss_and_no_gradient(self, llama: Path) -> None:
        model = attached(llama, {"type": "LoRA", "lora": {"dropout": 0}})
        fused = FusedLoss(plain_output(model), reference, torch.float32)  # type: ignore[arg-type]
        with fused.hidden_states():
            loss = fused.loss(model(input_ids=TOKENS).logits, torch.full_like(TOKENS, -100), torch.tensor(1))
        loss.backward()
        assert loss == 0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())

    @pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gpt2", "mixtral"])
    def test_models_whose_logits_are_the_outputs_of_their_last_layer(self, kind: str) -> None:
        model = tiny(kind)
        assert plain_output(model) is model.get_output_embeddings()

    @pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "cohere", "granite", "falcon_h1", "nemotron_h", "bert"])
    def test_models_that_cap_or_scale_logits_keep_their_loss(self, kind: str) -> None:
        assert plain_output(tiny(kind)) is None

    def test_an_adapted_output_layer_keeps_the_loss_of_the_model(self, llama: Path) -> None:
        assert plain_output(attached(llama, {"type": "LoRA", "lora": {"targetModules": ["lm_head"]}})) is None

    @pytest.mark.parametrize("trained", [False, True])
    def test_a_kernel_that_computes_something_else_is_not_used(self, trained: bool) -> None:
        output = torch.nn.Linear(32, 100, bias=False).requires_grad_(trained)
        assert agrees(reference, output, CPU, torch.bfloat16)

        def smoothed(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            scores = (states @ weight.T).float()
            return torch.nn.functional.cross_entropy(scores, targets, reduction="sum", label_smoothing=0.1)

        def without_states(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            loss = reference(states, weight, targets)
            return loss + 0.1 * (states.float().sum() - states.detach().float().sum())

        assert not agrees(smoothed, output, CPU, torch.bfloat16)
        assert not agrees(without_states, output, CPU, torch.bfloat16)


def norm(states: torch.Tensor, weight: torch.Tensor, form: Form) -> torch.Tensor:
    """The kernel of Liger as its documentation says."""
    scale = states.float() * torch.rsqrt(states.float().square().mean(-1, keepdim=True) + form.epsilon)
    if form.rounding == "llama":
        return (form.added + weight) * scale.to(states.dtype)
    return ((form.added + weight.float()) * scale).to(states.dtype)


class TestNorms:
    @pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
    def test_outputs_stay_the_same(self, kind: str) -> None:
        model = tiny(kind).to(torch.bfloat16).requires_grad_(False)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
        expected = logits(model)
        count = sum(type(module).__name__.endswith("RMSNorm") for module in model.modules())
        calls = []

        def counted(states: torch.Tensor, weight: torch.Tensor, form: Form) -> torch.Tensor:
            calls.append(form)
            return norm(states, weight, form)

        assert fuse_norms(model, counted, CPU, torch.bfloat16) == count > 0
        calls.clear()
        torch.testing.assert_close(logits(model), expected, atol=0.02, rtol=0.02)
        assert len(calls) == count
        assert {form.added for form in calls} == {1.0 if kind == "gemma3_text" else 0.0}

    def test_trained_norms_and_kernels_that_differ_are_left_alone(self) -> None:
        model = tiny("llama")
        assert fuse_norms(model, norm, CPU, torch.float32) == 0
        model.requires_grad_(False)
        assert fuse_norms(model, lambda *given: 1.05 * norm(*given), CPU, torch.float32) == 0


class TestMemory:
    class Fixed:
        def __init__(self, peak: int, total: int) -> None:
            self._peak, self._total = peak, total

        def reset(self) -> None:
            pass

        def peak(self) -> int:
            return self._peak

        def total(self) -> int:
            return self._total

    def fits(self, peak: int, total: int, step: Callable[[], torch.Tensor] | None = None, shared_by: int = 1) -> bool:
        model = torch.nn.Linear(10, 10, bias=False).eval()
        before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        found = fits(
            model,
            step or (lambda: torch.nn.functional.dropout(model(torch.randn(2, 10)), training=model.training).sum()),
            self.Fixed(peak, total),
            shared_by=shared_by,
        )
        assert model.weight.grad is None
        assert not model.training
        assert torch.equal(model.state_dict()["weight"], before["weight"])
        assert torch.equal(torch.get_rng_state(), state)
        return found

    def test_the_state_of_the_optimizer_needs_memory_too(self) -> None:
        assert self.fits(1000, 2500)
        assert not self.fits(1000, 2300)
        assert self.fits(1000, 2000, shared_by=2)

    def test_a_step_that_runs_out_of_memory_does_not_fit(self) -> None:
        def step() -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        assert not self.fits(0, 10**12, step)


class TestCompile:
    def test_compiled_layers_give_the_same_gradients(self, llama: Path) -> None:
        gradients = []
        for compiled in (False, True):
            torch.manual_seed(0)
            model = attached(llama, {"type": "LoRA", "lora": {"dropout": 0, "targetModules": ["q_proj"]}})
            names = set(model.state_dict())
            if compiled:
                assert compile_layers(model, "aot_eager") == 2  # Inductor needs a minute on CPUs.
            model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
            assert set(model.state_dict()) == names
            gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)

    def test_a_missing_compiler_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.delenv("CXX", raising=False)
        for device, name in ((Device.CPU, "g[+][+]"), (Device.GPU, "gcc")):
            with pytest.raises(
                StageFailure, match=f"training.compile needs a compiler [(]{name}.*COMPILER=1"
            ) as caught:
                require_compiler(device)
            assert caught.value.reason is Reason.BAD_CONFIGURATION

    def test_a_model_without_repeated_layers_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny("llama")
        monkeypatch.setattr(model, "_no_split_modules", set())
        with pytest.raises(StageFailure, match="LlamaForCausalLM does not name the layers that it repeats"):
            compile_layers(model)

    def test_a_job_compiles_recomputes_and_says_so(self, instruction: TinyJob, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # Inductor needs a minute on CPUs.
        training = {"maxSteps": 1, "compile": True, "activationCheckpointing": True}
        job = instruction.named("compiled", training=training)
        outcome = job.run(Stage.TRAIN)
        assert outcome.code == 0, outcome.log
        trained = json.loads((job.revision / "trained" / "training.json").read_text())
        assert trained["computations"] == ["2 layers compiled", "activations recomputed in the backward pass"]


def test_what_ran_is_said_in_words() -> None:
    attention = PackedAttention(lambda *_, **__: torch.zeros(()), "cpu")
    assert Acceleration(attention).in_words == []
    attention.layers = 30
    assert Acceleration(attention, norms=5).in_words == [
        "attention of packed rows with varlen_attn",
        "5 RMS norms with kernels of Liger",
    ]
    attention.fallbacks = 10
    (words,) = Acceleration(attention).in_words
    assert words.endswith("; 10 of 40 layers with SDPA")
    attention.layers = 0
    assert Acceleration(attention).in_words == ["attention of packed rows with SDPA"]
