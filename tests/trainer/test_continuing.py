"""Continuing from a published adapter: the same adapter, with its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import PreviousRevision, StageConfig
from finetune_trainer.base_content import content_of
from finetune_trainer.known_rows import previous_artifact
from finetune_trainer.methods import method_of
from finetune_trainer.models import fetch_model
from finetune_trainer.prepared import SplitReport
from tests.trainer.continuing_fixtures import a_published_adapter, continued_from
from tests.trainer.evaluation_fixtures import data_report
from tests.trainer.method_fixtures import TOKENS, disturb, logits, spec_of
from tests.trainer.test_virtual_tokens import settings
from tests.trainer.tiny_models import save_bert

LORA = {"type": "LoRA"}


def lora_of(**settings: Any) -> dict[str, Any]:
    return {"type": "LoRA", "lora": {"rank": 4, "alpha": 8, "dropout": 0, **settings}}


def shapes(directory: Path) -> dict[str, list[int]]:
    with safe_open(directory / "adapter_model.safetensors", framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("origin", "method"),
    [
        (lora_of(), LORA),
        (lora_of(useDora=True), LORA),
        (lora_of(useRslora=True), lora_of(useRslora=True)),
        (lora_of(rankPattern={"o_proj": 2}), lora_of(rankPattern={"o_proj": 2}, dropout=0.5)),
        (lora_of(targetModules=["q_proj", "v_proj"]), lora_of(targetModules=["v_proj", "q_proj"])),
        (lora_of(initialization="PiSSA"), LORA),
        (lora_of(initialization="OLoRA"), lora_of(rank=8, alpha=16)),
        (lora_of(initialization="EVA"), lora_of()),
        ({"type": "IA3"}, {"type": "IA3"}),
        (settings("PromptTuning", initText="snow rain"), {"type": "PromptTuning"}),
        (settings("PrefixTuning"), settings("PrefixTuning")),
    ],
    ids=["LoRA", "DoRA", "rsLoRA", "ranks", "targets", "PiSSA", "OLoRA", "EVA", "IA3", "prompt", "prefix"],
)
def test_it_is_the_same_adapter_before_and_after(
    llama: Path, tmp_path: Path, origin: dict[str, Any], method: dict[str, Any]
) -> None:
    artifact = tmp_path / "artifact"
    trained, _ = a_published_adapter(artifact, llama, origin)
    model = continued_from(artifact, llama, method, origin)
    torch.testing.assert_close(logits(model), logits(trained), atol=1e-4, rtol=0)
    assert list(model.peft_config) == ["default"]
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert trainable == sum(torch.Size(shape).numel() for shape in shapes(artifact).values())
    disturb(model)
    further = logits(model)
    assert (further - logits(trained)).abs().max() > 0.05
    again = tmp_path / "again"
    model.save_pretrained(again)
    published = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), again).eval()
    text = logits(published)[:, -TOKENS.shape[1] :]  # Plain PEFT has the places of virtual tokens first.
    torch.testing.assert_close(text, further, atol=1e-5, rtol=0)
    assert shapes(again) == shapes(artifact)


@pytest.mark.parametrize("origin", [lora_of(), settings("PromptTuning"), settings("PrefixTuning")])
def test_the_head_of_a_classifier_is_continued_as_well(tmp_path: Path, origin: dict[str, Any]) -> None:
    save_bert(tmp_path / "base")
    trained, _ = a_published_adapter(tmp_path / "artifact", tmp_path / "base", origin, "TextClassification")
    method = {"type": origin["type"]}
    model = continued_from(tmp_path / "artifact", tmp_path / "base", method, origin, "TextClassification")
    assert torch.equal(logits(model), logits(trained))
    heads = [name for name, one in model.named_parameters() if one.requires_grad and "lora" not in name]
    assert any("classifier" in name for name in heads)
    stored = model.active_peft_config.modules_to_save
    assert len(stored) == len(set(stored))


@pytest.mark.parametrize(
    ("origin", "method", "message"),
    [
        (lora_of(), lora_of(rank=8), r"method\.lora\.rank is 8, but model\.adapter has 4: remove method\.lora"),
        (lora_of(), lora_of(alpha=16), r"method\.lora\.alpha is 16, but model\.adapter has 8"),
        (lora_of(), lora_of(useDora=True), r"useDora is true, but model\.adapter has false"),
        (lora_of(), lora_of(targetModules=["q_proj"]), "targetModules is q_proj, but model.adapter has all-linear"),
        (lora_of(rankPattern={"o_proj": 2}), lora_of(), r"rankPattern is \{\}, but"),
        (lora_of(initialization="PiSSA"), lora_of(), "rank is 4, .* has 8, because PiSSA publishes twice the rank"),
        (lora_of(initialization="PiSSA", useRslora=True), LORA, "twice the rank with the alpha 11.31"),
        (
            {"type": "IA3"},
            {"type": "IA3", "ia3": {"targetModules": ["k_proj"], "feedforwardModules": []}},
            r"method\.ia3\.targetModules is k_proj, but model\.adapter has None",
        ),
        (
            settings("PromptTuning"),
            settings("PromptTuning", 6),
            r"method\.promptTuning\.virtualTokens is 6, but model\.adapter has 5: remove method\.promptTuning",
        ),
        (
            settings("PrefixTuning"),
            {"type": "PrefixTuning", "prefixTuning": {}},
            r"method\.prefixTuning\.virtualTokens is 20, but model\.adapter has 5: remove method\.prefixTuning",
        ),
    ],
)
def test_settings_of_another_adapter_are_refused(
    llama: Path, tmp_path: Path, origin: dict[str, Any], method: dict[str, Any], message: str
) -> None:
    a_published_adapter(tmp_path / "artifact", llama, origin)
    with pytest.raises(StageFailure, match=message) as caught:
        continued_from(tmp_path / "artifact", llama, method, origin)
    assert caught.value.reason is Reason.BAD_CONFIGURATION


def test_tensors_of_other_shapes_are_refused(llama: Path, tmp_path: Path) -> None:
    a_published_adapter(tmp_path / "artifact", llama, lora_of())
    config = tmp_path / "artifact" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 2}))
    with pytest.raises(StageFailure, match=r"28 of its tensors differ, such as .* is \(4, 64\) .* and \(2, 64\)"):
        continued_from(tmp_path / "artifact", llama, LORA, lora_of())


def test_virtual_tokens_of_another_number_than_the_manifest_says_are_refused(llama: Path, tmp_path: Path) -> None:
    a_published_adapter(tmp_path / "artifact", llama, settings("PromptTuning"))
    with pytest.raises(StageFailure, match=r"such as prompt_embeddings, which is \(5, 32\) .* and \(6, 32\)"):
        continued_from(tmp_path / "artifact", llama, {"type": "PromptTuning"}, settings("PromptTuning", 6))


@pytest.mark.parametrize("name", ["Full", "PTuning"])
def test_what_publishes_no_trained_adapter_cannot_be_continued(llama: Path, name: str) -> None:
    spec = spec_of(llama, {"type": name})
    with pytest.raises(StageFailure, match=f"training with method {name} cannot continue"):
        method_of(spec.method.type).continued(spec, spec, Path("unused"))


@pytest.mark.parametrize(("longest", "refused"), [(59, False), (60, True)])
def test_test_examples_need_positions_behind_the_earlier_virtual_tokens(
    llama: Path, tmp_path: Path, longest: int, refused: bool
) -> None:
    base = spec_of(llama, LORA)
    sizes = {"p50": 8, "p90": 8, "p99": 8, "max": longest}
    split = SplitReport(examples=9, tokens=99, truncated=0, length_quantiles=sizes)
    content = content_of(base.model, fetch_model(base.model, tmp_path, weights=True))
    data = data_report(base, {"test": split})
    data = data.model_copy(update={"model": data.model.model_copy(update={"content": content})})
    _, digest = a_published_adapter(tmp_path / "artifact", llama, settings("PromptTuning"))
    previous = PreviousRevision(revision=3, uri=(tmp_path / "artifact").as_uri(), digest=digest)
    config = StageConfig.model_construct(spec=base, previous=previous)
    if not refused:
        assert previous_artifact(config, data) is not None
        return
    with pytest.raises(
        StageFailure, match=r"behind its 5 virtual tokens, .* has room for 59 tokens, .* has 60"
    ) as caught:
        previous_artifact(config, data)
    assert caught.value.reason is Reason.BAD_CONFIGURATION
