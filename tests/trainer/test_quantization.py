"""Adapters on a base model in 4 or 8 bits: what is rounded, whole jobs, and what is refused before a GPU is held."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import FalconConfig, FalconModel

from finetune_api.failures import Reason
from finetune_api.spec import FineTuneJobSpec, Precision, Quantization
from finetune_api.stage import Stage
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.quantizing import stored_as
from finetune_trainer.patches.peft import bitsandbytes
from finetune_trainer.predict import Request, predict
from finetune_trainer.tasks import form_of
from finetune_trainer.train.model import load_model
from tests.trainer.evaluation_fixtures import data_report
from tests.trainer.method_fixtures import base_logits, logits, spec_of
from tests.trainer.stages import TinyJob
from tests.trainer.tiny_models import STRONG_INIT, make_tokenizer, save_bert, save_gpt2, save_llama

BOTH = pytest.mark.parametrize("quantization", ["NF4", "Int8"])
LORA = {"type": "LoRA", "lora": {"dropout": 0}}


def rounded_spec(base: Path, method: dict[str, Any], task: str, quantization: str) -> FineTuneJobSpec:
    spec = spec_of(base, method, task)
    return spec.model_copy(update={"model": spec.model.model_copy(update={"quantization": Quantization(quantization)})})


def attached(
    base: Path,
    quantization: str,
    method: dict[str, Any] = LORA,
    task: str = "InstructionTuning",
    precision: Precision = Precision.BF16,
) -> Any:
    """The model with its adapter, as the train stage makes it."""
    spec = rounded_spec(base, method, task, quantization)
    report = data_report(spec)
    return load_model(base, spec, report, task=form_of(spec.task.type, report.family), precision=precision)


def classes(model: Any) -> Counter[str]:
    return Counter(type(parameter).__name__ for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(32, 32), (32, 96), (33, 70), (128, 64)])
def test_each_weight_has_the_scale_of_its_block(shape: tuple[int, int]) -> None:
    """Blocks of 64 go on from row to row, on every CPU."""
    library = bitsandbytes()
    torch.manual_seed(0)
    scales = torch.repeat_interleave(torch.logspace(-3, 3, -(-shape[0] * shape[1] // 64)), 64)
    weight = torch.randn(shape) * scales[: shape[0] * shape[1]].reshape(shape)
    layer = library.nn.Linear4bit(shape[1], shape[0], bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer.weight = library.nn.Params4bit(weight, False, quant_type="nf4", compress_statistics=False, module=layer)
    layer = layer.to("cpu").eval()  # It is rounded now.
    with torch.no_grad():
        found = layer(torch.eye(shape[1])).T
        error = (found - weight).abs() / scales[: shape[0] * shape[1]].reshape(shape)
    assert error.max() < 0.7


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "llama"
    save_llama(directory, STRONG_INIT)
    return directory


def test_nf4_of_a_block() -> None:
    """Figures that were computed apart from the product."""
    functional = bitsandbytes().functional
    packed, state = functional.quantize_4bit(
        torch.tensor([0.1, -0.5, 1.0, 0.33]), quant_type="nf4", compress_statistics=True
    )
    found = functional.dequantize_4bit(packed, state)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0796, -0.5251, 1.0, 0.3379]), atol=1e-4, rtol=0)


class TestWhatIsRounded:
    @pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP32])
    @pytest.mark.parametrize(("quantization", "name"), [("NF4", "Params4bit"), ("Int8", "Int8Params")])
    def test_linear_layers_and_nothing_else(
        self, quantization: str, name: str, precision: Precision, llama: Path
    ) -> None:
        model = attached(llama, quantization, precision=precision)
        dtype = {Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}[precision]
        assert classes(model)[name] == 2 * 7
        base = model.get_base_model()
        assert base.lm_head.weight.dtype == base.get_input_embeddings().weight.dtype == dtype
        assert base.model.norm.weight.dtype == dtype
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad)
        if quantization == "NF4":
            assert base.model.layers[0].mlp.up_proj.base_layer.compute_dtype == dtype
        stored = stored_as(model)
        assert stored is not None
        assert stored["llm_int8_skip_modules"] == ["lm_head"]
        coverage = method_of(spec_of(llama, LORA).method.type).coverage(model)
        whole = attached(llama, "None", precision=precision)
        assert coverage == method_of(spec_of(llama, LORA).method.type).coverage(whole)

    @BOTH
    def test_a_new_head_and_modules_without_weights_are_trained_as_they_are(
        self, quantization: str, tmp_path: Path
    ) -> None:
        save_bert(tmp_path / "bert", pooler=False)
        model = attached(tmp_path / "bert", quantization, task="TextClassification").get_base_model()
        for head in (model.classifier, model.bert.pooler):
            trained = list(head.modules_to_save.parameters())
            assert trained
            assert {type(parameter) for parameter in trained} == {torch.nn.Parameter}
            assert all(parameter.requires_grad and parameter.is_floating_point() for parameter in trained)

    @pytest.mark.parametrize(
        ("quantization", "method", "error"),
        [("NF4", LORA, 0.3), ("NF4", {"type": "LoRA", "lora": {"useDora": True}}, 0.3), ("Int8", LORA, 0.05)],
    )
    def test_methods_train_on_transposed_layers(
        self, quantization: str, method: dict[str, Any], error: float, tmp_path: Path
    ) -> None:
        base = save_gpt2(tmp_path)
        model = attached(base, quantization, method, precision=Precision.FP32)
        exact = base_logits(base)
        # A transposed weight would give other logits altogether.
        assert 0 < (logits(model.eval()) - exact).abs().max() < error * exact.abs().max()
        for _ in range(2):
            model.train()(input_ids=torch.tensor([[7, 8, 9]])).logits.square().mean().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        assert gradients
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


def losses_of(job: TinyJob, name: str, quantization: str, stage: int, processes: int = 1, **spec: Any) -> list[float]:
    one = job.named(
        name,
        model={"quantization": quantization},
        distributed={"gpusPerWorker": 0, "zero": {"stage": stage}},
        training={"maxSteps": 2, **spec.pop("training", {})},
        **spec,
    )
    outcome = one.run(Stage.TRAIN, processes=processes)
    assert outcome.code == 0, outcome.log
    return one.losses()


def test_zero_3_trains_on_the_same_weights(instruction: TinyJob) -> None:
    training = {"precision": "BF16", "activationCheckpointing": True}
    alone = losses_of(instruction, "nf4-0", "NF4", 0, training=training)
    shared = losses_of(instruction, "nf4-3", "NF4", 3, processes=2, training=training)
    assert shared == pytest.approx(alone, rel=1e-3)


def test_a_job_is_measured_and_published_with_its_base(
    classification: TinyJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = classification.named(
        "nf4",
        model={"quantization": "NF4"},
        method={"type": "LoRA", "lora": {"rank": 4, "initialization": "EVA"}},
        distributed={"gpusPerWorker": 0, "zero": {"stage": 0}},
    )
    for stage in (Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH):
        outcome = job.run(stage)
        assert outcome.code == 0, outcome.log
    score, exact = job.evaluation["metrics"][0], job.evaluation["exactBase"]
    assert exact["name"] == score["name"]
    assert exact["baseline"] == pytest.approx(score["tuned"])
    assert exact["change"] == pytest.approx(exact["tuned"] - exact["baseline"])
    assert exact["interval"][0] <= exact["change"] <= exact["interval"][1]
    for page in ("README.md", "report.html"):
        assert "those of the base model in NF4" in (job.artifact / page).read_text()
    texts = [row["text"] for row in job.predictions]
    found = predict(Request(artifact=job.artifact.as_uri(), rows=texts), tmp_path).predictions
    assert [one.document["label"] for one in found] == [row["tuned"] for row in job.predictions]
    program = job.usage.replace('["A text to classify"]', json.dumps(texts)).replace(
        'path/to/base"', f'{Path(classification.root) / "base"}"'
    )
    monkeypatch.chdir(job.artifact)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "README.md", "exec"), {})
    assert output.getvalue().strip() == str([row["tuned"] for row in job.predictions])


class TestRefusals:
    def prepare(self, classification: TinyJob, root: Path, base: Path) -> Any:
        spec = classification.changed(model={"uri": base.as_uri(), "quantization": "NF4"}).spec
        outcome = TinyJob(root, spec | {"output": {"uri": (root / "storage").as_uri()}}).run(Stage.PREPARE)
        assert outcome.report.error is not None
        assert outcome.report.error.reason is Reason.BAD_CONFIGURATION
        return outcome.message

    def test_a_model_without_linear_layers(self, classification: TinyJob, tmp_path: Path) -> None:
        tokenizer = make_tokenizer()
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_hidden_size": 64}
        # Its linear layers are of a class of their own, which bitsandbytes leaves as they are.
        FalconModel(FalconConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        message = self.prepare(classification, tmp_path, tmp_path / "base")
        assert "model.quantization NF4 is for linear layers, and FalconForSequenceClassification has none" in message

    def test_a_model_that_is_quantised_already(self, classification: TinyJob, tmp_path: Path) -> None:
        save_bert(tmp_path / "base")
        path = tmp_path / "base" / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
        assert "is quantised already" in self.prepare(classification, tmp_path, tmp_path / "base")
