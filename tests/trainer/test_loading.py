"""A model that cannot be loaded is a problem of the model, and one that does not fit into memory is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from transformers import AutoModel, GPT2Config

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Precision
from finetune_trainer.modelling.loading import _initialise_again, load, set_padding
from finetune_trainer.tasks import form_of
from finetune_trainer.train.model import load_model
from tests.trainer.evaluation_fixtures import data_report
from tests.trainer.method_fixtures import spec_of
from tests.trainer.tiny_models import save_bert


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_attention_heads": 0},
        {"num_hidden_layers": "two"},
        {"hidden_act": "no such function"},
        {"hidden_size": [32]},
        {"hidden_size": 48},
    ],
    ids=str,
)
def test_a_configuration_with_a_wrong_value_is_refused_in_one_sentence(tmp_path: Path, wrong: dict[str, Any]) -> None:
    save_bert(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | wrong))
    with pytest.raises(StageFailure) as failure:
        load(AutoModel, tmp_path, torch.float32, "model.uri file:///model")
    assert failure.value.reason is Reason.BAD_CONFIGURATION
    assert failure.value.message.startswith("model.uri file:///model cannot be loaded as a model without a head: ")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_lack_of_memory_is_not_a_fault_of_the_configuration(tmp_path: Path, error: Exception) -> None:
    def from_pretrained(*_: object, **__: object) -> NoReturn:
        raise error

    auto_class = SimpleNamespace(from_pretrained=from_pretrained, __name__="AutoModel")
    with pytest.raises(type(error)):
        load(auto_class, tmp_path, torch.float32, "model")


def test_the_padding_token_is_set_where_a_model_of_several_modalities_reads_it() -> None:
    text = GPT2Config()
    outer = SimpleNamespace(get_text_config=lambda: text)
    set_padding(SimpleNamespace(config=outer), 7)
    assert (outer.pad_token_id, text.pad_token_id) == (7, 7)


def test_new_weights_do_not_depend_on_the_order_of_a_set(tmp_path: Path) -> None:
    save_bert(tmp_path)
    names = ("encoder.layer.0.output.dense.weight", "encoder.layer.1.output.dense.weight", "pooler.dense.weight")
    initialised = []
    for order in (names, names[::-1]):
        model = load(AutoModel, tmp_path, torch.float32, "model").model
        torch.manual_seed(1)
        _initialise_again(model, order)  # type: ignore[arg-type]
        initialised.append([model.get_parameter(name) for name in names])
    assert all(torch.equal(*pair) for pair in zip(*initialised, strict=True))


@pytest.mark.parametrize("method", ["LoRA", "IA3", "PrefixTuning"])
def test_a_head_beside_an_adapter_is_trained_in_fp32(method: str, tmp_path: Path) -> None:
    save_bert(tmp_path)
    spec = spec_of(tmp_path, {"type": method}, "TextClassification")
    report = data_report(spec)
    form = form_of(spec.task.type, report.family)
    model = load_model(tmp_path, spec, report, task=form, precision=Precision.BF16)
    assert model.get_base_model().get_input_embeddings().weight.dtype == torch.bfloat16
    trained = {name: one.dtype for name, one in model.named_parameters() if one.requires_grad}
    assert any("classifier" in name for name in trained)
    assert set(trained.values()) == {torch.float32}
    stored = model.active_peft_config.modules_to_save
    assert len(stored) == len(set(stored))
