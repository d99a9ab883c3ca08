"""The losses of labels behind prompts: with what they have in common computed once, as if each was a row of its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Device
from finetune_trainer.context import Reporter
from finetune_trainer.evaluate.comparison import EvaluationInputs
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.search.ranking import Ranker
from finetune_trainer.search.reusing import CacheReuse, EncoderReuse
from finetune_trainer.tasks.base import ModelClass
from tests.trainer.evaluation_fixtures import data_report

VOCABULARY = 90
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
DECODER = {**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64, "pad_token_id": 0}
LABELS = [[7], [8], [9, 4, 11], [9, 5], [3, 3, 3, 3, 6], [12, 7]]


def a_llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**DECODER))


def with_windows() -> Any:
    """A model that sees only the last seven tokens in one of its layers."""
    kinds = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**DECODER, head_dim=16, sliding_window=7, layer_types=kinds))


def a_t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
    )


def inputs_for(**handling: Any) -> EvaluationInputs:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://owner/name"},
            "task": {"type": "TextClassification"},
            "dataset": {"train": {"uri": "s3://bucket/train.jsonl"}},
            "output": {"uri": "s3://bucket/out"},
        },
        strict=False,
    )
    data = data_report(spec)
    data = data.model_copy(update={"handling": data.handling.model_copy(update=handling)})
    return EvaluationInputs(
        spec=spec,
        base=Path(),
        trained=Path(),
        prepared=Path(),
        data=data,
        model_class=ModelClass(None, {}),
        method=method_of(spec.method.type),
        hardware=Hardware.of("FP32", Device.CPU),
        reporter=Reporter(None),
    )


def prompts(common: int, count: int = 20) -> TokenRows:
    """Prompts of different lengths that begin with the same tokens."""
    generator = np.random.default_rng(5)
    first = generator.integers(1, VOCABULARY, common)
    rows = [
        np.concatenate([first, generator.integers(1, VOCABULARY, length)]).astype(np.int32)
        for length in generator.integers(1, 9, count)
    ]
    return TokenRows(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])]))


def losses_of(model: Any, tokens: TokenRows, *, seq2seq: bool = False) -> np.ndarray[Any, Any]:
    """The losses without batches and caches, by the model alone."""
    found = np.zeros((len(tokens), len(LABELS)))
    for row in range(len(tokens)):
        prompt = torch.from_numpy(tokens[row].astype(np.int64))[None]
        for place, label in enumerate(LABELS):
            ending = torch.tensor([label])
            with torch.inference_mode():
                if seq2seq:
                    logits = model(input_ids=prompt, labels=ending).logits[0]
                else:
                    logits = model(input_ids=torch.cat([prompt, ending], dim=1)).logits[0, -len(label) - 1 : -1]
            found[row, place] = float(torch.nn.functional.cross_entropy(logits.float(), ending[0]))
    return found


@pytest.mark.parametrize(
    ("make", "kind", "common"),
    [
        (a_llama, CacheReuse, 30),
        (a_llama, CacheReuse, 0),
        (with_windows, CacheReuse, 30),
        (with_windows, CacheReuse, 5),
        (a_t5, EncoderReuse, 30),
    ],
)
def test_losses_are_those_of_the_model_alone(make: Any, kind: type, common: int) -> None:
    torch.manual_seed(2)
    model, tokens = make().eval(), prompts(common)
    ranker = Ranker(inputs_for(), model, seq2seq=kind is EncoderReuse)
    found = ranker.losses(tokens, LABELS, lambda _: None)
    expected = losses_of(model, tokens, seq2seq=kind is EncoderReuse)
    assert isinstance(ranker._reuse, kind)
    assert abs(found - expected).max() < 1e-5
    assert (found.argmin(axis=1) == expected.argmin(axis=1)).all()


def test_a_model_with_another_cache_ranks_labels_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    torch.manual_seed(2)
    model, tokens = MambaForCausalLM(MambaConfig(**SIZES)).eval(), prompts(12, count=4)
    found = Ranker(inputs_for(), model, seq2seq=False).losses(tokens, LABELS, lambda _: None)
    assert abs(found - losses_of(model, tokens)).max() < 1e-5
    assert "labels are ranked one by one, because the model cannot share a prompt" in caplog.text


def test_a_cache_that_changes_losses_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    class Forgetful(LlamaForCausalLM):
        """A model whose cache loses what it has read."""

        def forward(self, *args: Any, past_key_values: Any = None, **settings: Any) -> Any:
            return super().forward(*args, past_key_values=None, **settings)

    torch.manual_seed(2)
    model, tokens = Forgetful(LlamaConfig(**DECODER)).eval(), prompts(12, count=4)
    found = Ranker(inputs_for(), model, seq2seq=False).losses(tokens, LABELS, lambda _: None)
    assert abs(found - losses_of(model, tokens)).max() < 1e-5
    assert "labels are ranked one by one" in caplog.text


def test_a_model_that_sees_padding_shares_nothing() -> None:
    torch.manual_seed(2)
    model, tokens = a_llama().eval(), prompts(12, count=4)
    ranker = Ranker(inputs_for(batching=False), model, seq2seq=False)
    found = ranker.losses(tokens, LABELS, lambda _: None)
    assert ranker._reuse is None
    assert abs(found - losses_of(model, tokens)).max() < 1e-5
