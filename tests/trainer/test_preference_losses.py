"""The losses of PreferenceTuning by hand, and against TRL's trainers on the same tokenised batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from finetune_api.method_settings import PreferenceSpec
from finetune_api.tables.preferences import PreferenceLoss
from finetune_trainer.prepare.arrays import token_lists
from finetune_trainer.tasks.preference_tuning.data import PreferenceCollator, PreferenceDataset, other_rows
from finetune_trainer.tasks.preference_tuning.losses import dpo, kto, odds
from finetune_trainer.tasks.preference_tuning.objective import PreferenceObjective
from finetune_trainer.train.batches import NO_ROW
from finetune_trainer.train.model import without_dropout
from finetune_trainer.train.objective import Run
from tests.trainer.preference_fixtures import preference_rows
from tests.trainer.tiny_models import save_llama
from tests.trainer.trl_losses import losses_of_trl

ROWS, LENGTH, SEED = 6, 64, 17
WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.5}


def test_dpo_sums_log_probabilities_and_orpo_averages_them() -> None:
    """A pair of 3 and 5 answer tokens, whose losses were computed apart."""
    chosen, rejected = torch.tensor([-1.0]), torch.tensor([-5.0])
    assert float(dpo(chosen + 2, rejected + 4, beta=0.1)) == pytest.approx(0.598139, abs=1e-6)
    term = float(odds(chosen / 3, rejected / 5))
    assert term == pytest.approx(0.207207, abs=1e-6)
    assert 1 / 3 + 0.1 * term == pytest.approx(0.354054, abs=1e-6)


def test_orpo_is_finite_for_an_answer_that_is_certain() -> None:
    certain = torch.zeros(1, requires_grad=True)
    loss = odds(certain, torch.tensor([-1.0]))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss).all()
    assert certain.grad is not None
    assert torch.isfinite(certain.grad).all()


def test_kto_of_an_untrained_model_is_half_of_each_weight() -> None:
    gains, labels = torch.zeros(2), torch.tensor([True, False])
    assert kto(gains, labels, torch.tensor(0.0), 0.1, (0.5, 3.0)).tolist() == [1.5, 0.25]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A reference and a policy that differs from it."""
    root = tmp_path_factory.mktemp("models")
    save_llama(root / "reference", initializer_range=0.1)
    tokenizer = save_llama(root / "policy", initializer_range=0.1)
    tokenizer.chat_template = None
    policy = LlamaForCausalLM.from_pretrained(root / "policy")
    torch.manual_seed(8)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    policy.save_pretrained(root / "policy")
    for directory in ("reference", "policy"):
        tokenizer.save_pretrained(root / directory)
    return {name: root / name for name in ("reference", "policy")}


def table_of(loss: str, tokenizer: PreTrainedTokenizerFast) -> pa.Table:
    """The rows as prepare stores them; the tokenizer knows whole words, so none merges with another."""
    rows = preference_rows(loss, ROWS)
    columns = {"prompt_ids": token_lists([tokenizer(row["prompt"])["input_ids"] for row in rows])}
    for name in ("completion",) if loss == "KTO" else ("chosen", "rejected"):
        answers = [[*tokenizer(row[name])["input_ids"], tokenizer.eos_token_id] for row in rows]
        columns[f"{name}_ids"] = token_lists(answers)
    if loss == "KTO":
        columns["label"] = pa.array([int(row["label"]) for row in rows], pa.int32())
    return pa.table(columns)


def ours(loss: str, models: dict[str, Path]) -> tuple[PreferenceDataset, float, float, float]:
    """The dataset, and the loss of the policy for all its rows: in one batch, in two, and in validation."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(models["policy"])
    data = PreferenceDataset(table_of(loss, tokenizer), LENGTH, SEED)
    reference, policy = (LlamaForCausalLM.from_pretrained(models[name]) for name in ("reference", "policy"))
    collate = PreferenceCollator(tokenizer.pad_token_id)
    settings = WEIGHTS if loss == "KTO" else {}
    objective = PreferenceObjective(PreferenceSpec(loss=PreferenceLoss(loss), **settings), data, data, batching=True)

    def run(model: LlamaForCausalLM) -> Run:
        return Run(model, torch.device("cpu"), 0, 1, 4, collate, lambda batch: batch, lambda: None, model)

    objective.begin(run(reference), None)
    whole = [collate([data[row] for row in range(ROWS)])]
    parts = [collate([data[row] for row in rows]) for rows in ([0, 1], [2, 3, 4, 5], [NO_ROW])]
    found = []
    for batches in (whole, parts):
        step = objective.begin_step(run(policy), batches)
        found.append(float(sum(objective.loss(policy, batch, step).detach() for batch in batches)))
    return data, found[0], found[1], objective.validation_loss(run(policy))


@pytest.fixture(scope="module")
def theirs(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The losses of TRL's trainers. The other answers of KTO are ours, because TRL draws them by another order."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(models["policy"])
    kto_rows = PreferenceDataset(table_of("KTO", tokenizer), LENGTH, SEED)
    others = [row["sequences"][1][row["starts"][1] :].tolist() for row in map(kto_rows.row, range(ROWS))]
    request = {
        **{name: str(path) for name, path in models.items()},
        "rows": {loss: preference_rows(loss, ROWS) for loss in PreferenceLoss},
        "others": others,
        "weights": WEIGHTS,
        "workspace": str(tmp_path_factory.mktemp("trl")),
    }
    return losses_of_trl(request)


@pytest.mark.parametrize("loss", list(PreferenceLoss))
def test_losses_are_those_of_trl(loss: str, models: dict[str, Path], theirs: dict[str, dict[str, float]]) -> None:
    data, whole, parts, validation = ours(loss, models)
    assert theirs[loss]["tokens"] == int(data.counts[:, 0].sum())
    # ORPO's likelihood term in TRL covers the prompt, too.
    expected = theirs[loss]["loss"] + theirs[loss].get("answer_nll", 0) - theirs[loss].get("nll", 0)
    assert whole == pytest.approx(expected, abs=1e-4)
    assert parts == pytest.approx(expected, abs=1e-4)
    assert validation == pytest.approx(expected, abs=1e-4)


def test_other_answers_of_kto_belong_to_other_prompts() -> None:
    for prompts in ([[1], [2], [3]], [[1], [1], [2], [3], [3], [4]], [[5], [6]]):
        others = other_rows(pa.table({"prompt_ids": token_lists(prompts)}), seed=3)
        assert sorted(others) == list(range(len(prompts)))
        assert all(prompts[row] != prompts[other] for row, other in enumerate(others))
    only = other_rows(pa.table({"prompt_ids": token_lists([[1], [1], [1]])}), seed=3)
    assert all(row != other for row, other in enumerate(only)), "an own answer"


def test_a_row_of_kto_has_the_whole_answer_of_another_one_after_the_end_of_its_prompt() -> None:
    table = pa.table(
        {
            "prompt_ids": token_lists([[1, 2, 3, 4], [5]]),
            "completion_ids": token_lists([[6], [7, 8, 9]]),
            "label": pa.array([1, 0], pa.int32()),
        }
    )
    row = PreferenceDataset(table, 5, SEED).row(0)
    assert [sequence.tolist() for sequence in row["sequences"]] == [[1, 2, 3, 4, 6], [3, 4, 7, 8, 9]]
    assert row["starts"] == [4, 2]
    assert np.array_equal(row["counts"], [1, 3])
    assert json.dumps(int(row["labels"])) == "1"


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=16, bos_token_id=1, eos_token_id=1),
        OPTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            ffn_dim=16,
            vocab_size=20,
            word_embed_proj_dim=16,
        ),
        LlamaConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, attention_dropout=0.5
        ),
    ],
    ids=lambda config: str(config.model_type),
)
def test_a_model_without_dropout_is_the_same_in_training(config: PreTrainedConfig) -> None:
    model = AutoModelForCausalLM.from_config(config)
    written = model.config.to_json_string()
    tokens = torch.arange(3, 13)[None]
    model.train()
    assert not torch.equal(model(tokens).logits, model(tokens).logits)
    without_dropout(model)
    expected = model.eval()(tokens).logits
    torch.testing.assert_close(model.train()(tokens).logits, expected)
    assert model.config.to_json_string() == written
