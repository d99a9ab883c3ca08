"""The kernels of GPUs compute what PyTorch does; rounded models need less memory, and layers compile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from finetune_api.spec import Precision
from finetune_api.stage import Stage
from finetune_api.tables.tasks import ModelFamily, TaskType
from finetune_trainer.modelling.fused_loss import FusedLoss, agrees, liger_cross_entropy, plain_output
from finetune_trainer.modelling.fused_norms import fuse_norms, liger_norm
from finetune_trainer.modelling.packed_attention import PackedAttention, installed
from finetune_trainer.tasks import form_of
from finetune_trainer.train.model import load_model
from tests.families.tiny import build, config_of
from tests.trainer.evaluation_fixtures import data_report
from tests.trainer.method_fixtures import spec_of
from tests.trainer.stages import TinyJob
from tests.trainer.test_packed_attention import KINDS, difference, packed_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda")
WORLD = {"workers": 1, "processesPerWorker": 1, "device": "gpu"}


def outputs(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        found = model(**batch, use_cache=False)
    found.loss.backward()
    gradients = {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}
    return found.logits.detach().float(), gradients


@pytest.mark.parametrize("kind", KINDS)
def test_varlen_attention_gives_the_outputs_and_gradients_of_sdpa(kind: str) -> None:
    from torch.nn.attention.varlen import varlen_attn

    model = build(config_of(kind, "CAUSAL_LM", KINDS[kind]), AutoModelForCausalLM).train().to(GPU)
    batch = {name: tensor.to(GPU) for name, tensor in packed_batch().items()}
    logits, gradients = outputs(model, batch)
    kernel: Any = varlen_attn
    with installed(PackedAttention(kernel)) as attention:
        found, found_gradients = outputs(model, batch)
    assert (attention.layers, attention.fallbacks) == (model.config.num_hidden_layers, 0)
    assert difference(found, logits) < 0.02
    assert found_gradients.keys() == gradients.keys()
    assert all(difference(found_gradients[name], gradients[name]) < 0.05 for name in gradients)


@pytest.mark.parametrize("trained", [False, True])
def test_the_loss_of_liger_is_that_of_the_task(trained: bool) -> None:
    config = LlamaConfig(vocab_size=32768, hidden_size=512, intermediate_size=1024, num_hidden_layers=2)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config).to(GPU, torch.bfloat16)
    output = plain_output(model)
    assert output is not None
    output.weight.requires_grad_(trained)
    kernel = liger_cross_entropy()
    assert agrees(kernel, output, GPU, torch.bfloat16)
    tokens = torch.randint(0, 32768, (2, 256), device=GPU)
    labels = tokens.masked_fill(torch.rand(2, 256, device=GPU) < 0.4, -100)
    form = form_of(TaskType.INSTRUCTION_TUNING, ModelFamily.CAUSAL)
    count = torch.tensor(300.0, device=GPU)
    found = []
    for fused in (None, FusedLoss(output, kernel, torch.bfloat16)):
        model.zero_grad()
        if fused is None:
            loss = form.loss(model(input_ids=tokens).logits, labels, count)
        else:
            with fused.hidden_states():
                loss = fused.loss(model(input_ids=tokens).logits, labels, count)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    assert all(difference(one.float(), other.float()) < 0.03 for one, other in zip(*found, strict=True))


def test_the_norms_of_liger_are_those_of_the_model() -> None:
    model = build(config_of("llama", "CAUSAL_LM", {}), AutoModelForCausalLM).to(GPU, torch.bfloat16)
    tokens = torch.randint(3, 100, (2, 32), device=GPU)
    expected = model.requires_grad_(False)(input_ids=tokens).logits
    assert fuse_norms(model, liger_norm(), GPU, torch.bfloat16) == 2 * model.config.num_hidden_layers + 1
    assert difference(model(input_ids=tokens).logits.float(), expected.float()) < 0.02


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose linear layers are most of its weights."""
    directory = tmp_path_factory.mktemp("models") / "wide"
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=256, hidden_size=1024, intermediate_size=4096, num_hidden_layers=4)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    return directory


def test_rounded_models_learn_with_less_memory(wide: Path) -> None:
    peaks = {}
    tokens = torch.randint(3, 256, (2, 64), device=GPU)
    for quantization in ("None", "Int8", "NF4"):
        spec = spec_of(wide, {"type": "LoRA", "lora": {"dropout": 0}})
        spec = spec.model_validate(
            spec.model_dump(mode="json", exclude_none=True)
            | {"model": {"uri": wide.as_uri(), "quantization": quantization}},
            strict=False,
        )
        report = data_report(spec)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        form = form_of(spec.task.type, report.family)
        model = load_model(wide, spec, report, task=form, precision=Precision.BF16, device=GPU).to(GPU).train()
        torch.cuda.reset_peak_memory_stats()  # Rounding itself needs the exact weights of a layer.
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
        losses = []
        for _ in range(8):
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
        assert losses[-1] < 0.9 * losses[0], (quantization, losses)
        peaks[quantization] = torch.cuda.max_memory_allocated() - before
        del model, optimizer, loss
    assert peaks["NF4"] < peaks["Int8"] < peaks["None"]


@pytest.mark.parametrize("compiles", [False, True])
def test_a_job_says_what_it_computed_faster(compiles: bool, instruction: TinyJob) -> None:
    training = {"maxSteps": 20, "precision": "BF16", "compile": compiles}
    distributed = {"gpusPerWorker": 1, "zero": {"stage": 2}}
    job = instruction.named(f"fast-{compiles}", distributed=distributed, training=training)
    outcome = job.run(Stage.TRAIN, world=WORLD)
    assert outcome.code == 0, outcome.log
    assert job.losses()[-1] < job.losses()[0]
    found = json.loads((job.revision / "trained" / "training.json").read_text())["computations"]
    assert "attention of packed rows with varlen_attn" in found
    assert "output layer and cross entropy in one kernel of Liger" in found
    assert ("2 layers compiled" in found) == compiles
    assert ("5 RMS norms with kernels of Liger" in found) != compiles
