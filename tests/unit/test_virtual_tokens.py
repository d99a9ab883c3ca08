"""Virtual tokens without torch: their room in the positions, what they start from, and who can have them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import StageFailure
from finetune_api.spec import FineTuneJobSpec, MethodType
from finetune_api.tables.tasks import ModelFamily, TaskType
from finetune_trainer.methods.prompt_tuning import initial_tokens, method
from finetune_trainer.prepare.family_settings import check_settings
from finetune_trainer.prepare.lengths import sequence_length
from finetune_trainer.prepared import ModelIdentity


def spec_of(method: dict[str, Any], **training: Any) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://acme/model"},
            "task": {"type": "TextClassification"},
            "dataset": {"train": {"uri": "file:///train.jsonl"}},
            "method": method,
            "training": training,
            "output": {"uri": "file:///output"},
        },
        strict=False,
    )


def length(positions: int | None, count: int, **training: Any) -> int:
    spec = spec_of({"type": "PTuning", "pTuning": {"virtualTokens": count}}, **training)
    model = ModelIdentity(
        uri="hf://acme/model", revision="1", architecture="M", parameters=1, max_positions=positions, license=None
    )
    return sequence_length(spec, ModelFamily.ENCODER, model)


def test_a_text_gets_the_positions_that_are_left() -> None:
    assert length(64, 20) == 44
    assert length(64, 56) == 8
    assert length(None, 20) == 512
    assert length(2048, 20) == 512
    assert length(64, 20, maxSequenceLength=44) == 44


@pytest.mark.parametrize(
    ("positions", "count", "requested", "message"),
    [
        (
            64,
            20,
            45,
            "maxSequenceLength is 45 and method.pTuning.virtualTokens 20, 65 in all, but hf://acme/model supports",
        ),
        (
            64,
            57,
            None,
            "virtualTokens is 57, but hf://acme/model supports at most 64 positions, which leaves no room for",
        ),
        (64, 64, 8, "lower it to at most 56"),
        (8, 1, None, "choose another method or model"),
    ],
)
def test_virtual_tokens_beyond_the_positions_are_refused(
    positions: int, count: int, requested: int | None, message: str
) -> None:
    with pytest.raises(StageFailure, match=message):
        length(positions, count, **({} if requested is None else {"maxSequenceLength": requested}))


def test_a_text_is_cut_or_repeated_to_the_virtual_tokens() -> None:
    repeated = initial_tokens([5, 6, 7], 7, unknown=None)
    assert repeated.tokens == (5, 6, 7, 5, 6, 7, 5)
    assert repeated.notes == ("method.promptTuning.initText has 3 tokens, which are repeated for 7 virtual tokens",)
    cut = initial_tokens([5, 6, 7], 2, unknown=6)
    assert cut.tokens == (5, 6)
    assert "has 3 tokens, of which the virtual tokens start from the first 2: raise virtualTokens" in cut.notes[0]
    assert "has 1 tokens that are unknown to the tokenizer" in cut.notes[1]
    assert initial_tokens([5, 6], 2, unknown=9).notes == ()


def test_an_initial_text_without_tokens_is_refused() -> None:
    spec = spec_of({"type": "PromptTuning", "promptTuning": {"initText": " "}})
    with pytest.raises(StageFailure, match="initText has no tokens in the tokenizer of hf://acme/model: write words"):
        method.initial_tokens(spec, lambda *_, **__: {"input_ids": []})


@pytest.mark.parametrize("name", ["PromptTuning", "PTuning"])
def test_a_class_at_the_last_position_is_refused(name: str) -> None:
    spec = spec_of({"type": name})
    check_settings(spec, ModelFamily.ENCODER)
    with pytest.raises(StageFailure, match=f"method {name} is not for TextClassification with a decoder, which reads"):
        check_settings(spec, ModelFamily.CAUSAL)
    check_settings(spec_of({"type": "PrefixTuning"}), ModelFamily.CAUSAL)


def test_the_families_of_a_method() -> None:
    assert MethodType.P_TUNING.row.families_for(TaskType.TEXT_CLASSIFICATION) == (ModelFamily.ENCODER,)
    assert MethodType.P_TUNING.row.families_for(TaskType.LANGUAGE_MODELING) == ()
    assert MethodType.LORA.row.families_for(TaskType.TEXT_CLASSIFICATION) == (ModelFamily.ENCODER, ModelFamily.CAUSAL)
