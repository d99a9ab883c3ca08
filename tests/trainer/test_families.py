"""A sample of tests/families: these model types still give the recorded results, with the installed versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.modelling.families import Limit
from tests.families.check import examine
from tests.families.results import read_results
from tests.families.run import result_of

HEADER, RESULTS = read_results()
SAMPLE = [
    ("CAUSAL_LM", "llama"),  # Works.
    ("CAUSAL_LM", "gemma3"),  # Has a vision tower.
    ("CAUSAL_LM", "qwen3_moe"),  # Experts without an adapter; PEFT maps names of their layers.
    ("CAUSAL_LM", "opt"),  # Mixes packed examples.
    ("CAUSAL_LM", "gpt_oss"),  # Eager attention.
    ("CAUSAL_LM", "bert"),  # Needs is_decoder.
    ("CAUSAL_LM", "mamba"),  # A linear layer that is never called.
    ("CAUSAL_LM", "rwkv"),  # Generates one at a time.
    ("CAUSAL_LM", "xlnet"),  # Refused.
    ("SEQ_CLS", "bert"),
    ("SEQ_CLS", "distilbert"),  # A head of two layers.
    ("SEQ_CLS", "gpt2"),  # Conv1D layers.
    ("SEQ_CLS", "xlnet"),  # One at a time.
    ("SEQ_2_SEQ_LM", "t5"),
    ("SEQ_2_SEQ_LM", "marian"),
    ("SEQ_2_SEQ_LM", "led"),  # Eager attention, and linear layers without a gradient.
    ("QUESTION_ANS", "bert"),
    ("QUESTION_ANS", "roberta"),  # No token types.
    ("QUESTION_ANS", "llama"),  # Refused.
    ("QUESTION_ANS", "t5"),  # Refused.
]


@pytest.mark.parametrize(("task", "model_type"), SAMPLE)
@pytest.mark.filterwarnings("ignore")
def test_a_model_family_gives_the_recorded_result(task: str, model_type: str, tmp_path: Path) -> None:
    recorded = RESULTS[task, model_type]
    found = result_of(task, model_type, examine(model_type, task, tmp_path))
    assert found.failed.keys() == recorded.failed.keys(), found.failed
    ignored = {"failed", "seconds"}
    assert found.model_dump(exclude=ignored) == recorded.model_dump(exclude=ignored)


def test_the_sample_has_every_kind_of_result() -> None:
    sample, everything = [RESULTS[one] for one in SAMPLE], list(RESULTS.values())
    for kind in ("requires", "untrained", "frozen", "unused"):
        assert {bool(getattr(result, kind)) for result in sample} == {bool(getattr(r, kind)) for r in everything}, kind
    assert {result.attention for result in sample} == {"sdpa", "eager"}
    for limit in Limit:
        assert any(str(limit) in result.failed for result in sample), limit
