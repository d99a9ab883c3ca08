"""PromptTuning, PrefixTuning and PTuning on real, tiny models: what is trained, published and compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    DistilBertConfig,
    DistilBertModel,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import Precision
from finetune_api.spec.outcome import GenerationSpec
from finetune_trainer.evaluate.generation import Generator
from finetune_trainer.evaluate.prompts import CausalPrompts
from finetune_trainer.methods import method_of
from finetune_trainer.modelling.batching import TokenRows
from finetune_trainer.modelling.loading import load
from finetune_trainer.modelling.outputs import logits_of
from finetune_trainer.modelling.precision import Hardware
from finetune_trainer.tasks import form_of
from finetune_trainer.train.model import load_model
from tests.trainer.evaluation_fixtures import data_report
from tests.trainer.method_fixtures import TOKENS, attached, base_logits, disturb, logits, spec_of
from tests.trainer.qa_fixtures import save_encoder

COUNT = 5
CPU = Hardware(torch.device("cpu"), torch.float32)
METHODS = ("PromptTuning", "PrefixTuning", "PTuning")
ALL = pytest.mark.parametrize("name", METHODS)


def settings(name: str, count: int = COUNT, **others: Any) -> dict[str, Any]:
    field = name[0].lower() + name[1:]
    return {"type": name, field: {"virtualTokens": count, **others}}


def offset(name: str) -> int:
    """Places before those of the text in the logits of plain PEFT."""
    return 0 if name == "PrefixTuning" else COUNT


@ALL
@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_what_is_published_is_what_was_trained(
    name: str, base: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    directory: Path = request.getfixturevalue(base)
    model = attached(directory, settings(name))
    disturb(model)
    trained = logits(model)
    assert trained.shape == base_logits(directory).shape
    assert (trained - base_logits(directory)).abs().max() > 0.05
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(directory), tmp_path).eval()
    torch.testing.assert_close(logits(plain)[:, offset(name) :], trained, atol=1e-6, rtol=0)
    spec = spec_of(directory, settings(name))
    method = method_of(spec.method.type)
    assert torch.equal(logits(method.reference(model, spec)), base_logits(directory))
    loader = lambda path: load(AutoModelForCausalLM, path, torch.float32, "base").placed(CPU)  # noqa: E731
    compared = {side: logits(one) for side, one in method.baseline_and_tuned(loader, directory, tmp_path)}
    assert torch.equal(compared["baseline"], base_logits(directory))
    torch.testing.assert_close(compared["tuned"], trained, atol=1e-6, rtol=0)


@ALL
def test_a_row_has_the_same_logits_alone_and_padded(name: str, llama: Path) -> None:
    model = attached(llama, settings(name))
    padded = torch.nn.functional.pad(TOKENS, (0, 4))
    mask = torch.nn.functional.pad(torch.ones_like(TOKENS), (0, 4))
    with torch.no_grad():
        beside = model(input_ids=padded, attention_mask=mask).logits[:, : TOKENS.shape[1]]
    torch.testing.assert_close(beside, logits(model), atol=1e-5, rtol=0)


def test_the_first_prompt_has_the_embeddings_of_the_initial_tokens(llama: Path) -> None:
    spec = spec_of(llama, settings("PromptTuning", 3, initText="snow rain"))
    report = data_report(spec).model_copy(update={"initial_tokens": (9, 8, 9)})
    form = form_of(spec.task.type, report.family)
    model = load_model(llama, spec, report, task=form, precision=Precision.FP32)
    words = model.get_input_embeddings().weight
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, words[[9, 8, 9]])
    at_random = attached(llama, settings("PromptTuning"))
    prompt = at_random.prompt_encoder["default"].embedding.weight
    assert all((words == row).all(dim=1).any() for row in prompt)


@ALL
def test_spans_are_those_of_the_text(name: str, tmp_path: Path) -> None:
    """The head of the base model, which is tuned, is that of the baseline."""
    base, saved = tmp_path / "base", tmp_path / "saved"
    save_encoder(base, "words", ["a b c d e f g h"], head=True)
    spec = spec_of(base, settings(name), "QuestionAnswering")
    report = data_report(spec).model_copy(update={"family": "encoder"})
    form = form_of(spec.task.type, report.family)
    model = load_model(base, spec, report, task=form, precision=Precision.FP32).eval()
    disturb(model)
    model.save_pretrained(saved)
    inputs = {"input_ids": torch.tensor([[2, 4, 3, 5, 6, 7, 3]]), "attention_mask": torch.ones((1, 7)).long()}
    untouched = AutoModelForQuestionAnswering.from_pretrained(base).eval()
    plain = PeftModel.from_pretrained(AutoModelForQuestionAnswering.from_pretrained(base), saved).eval()
    loader = lambda path: load(AutoModelForQuestionAnswering, path, torch.float32, "base").placed(CPU)  # noqa: E731
    method = method_of(spec.method.type)
    with torch.no_grad():
        trained, of_plain, before = (logits_of(one(**inputs)) for one in (model, plain, untouched))
        found = {side: logits_of(one(**inputs)) for side, one in method.baseline_and_tuned(loader, base, saved)}
    assert trained.shape == (1, 2, 7)
    torch.testing.assert_close(of_plain[..., offset(name) :], trained, atol=1e-6, rtol=0)
    torch.testing.assert_close(found["tuned"], trained, atol=1e-6, rtol=0)
    assert torch.equal(found["baseline"], before)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 whose heads together are wider than its hidden states, as those of Flan-T5 small are."""
    directory = tmp_path_factory.mktemp("models") / "t5"
    torch.manual_seed(5)
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 16, "num_heads": 3, "d_ff": 64, "num_layers": 2}
    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    config = T5Config(vocab_size=60, **sizes, **special, dropout_rate=0.0)
    T5ForConditionalGeneration(config).save_pretrained(directory)
    return directory


@ALL
def test_an_encoder_and_decoder_generates_the_same_with_and_without_a_cache(
    name: str, t5: Path, tmp_path: Path
) -> None:
    spec = spec_of(t5, settings(name), "Summarization")
    report = data_report(spec).model_copy(update={"family": "seq2seq"})
    model = load_model(t5, spec, report, task=form_of(spec.task.type, report.family), precision=Precision.FP32).eval()
    disturb(model)
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(t5), tmp_path).eval()
    generator = np.random.default_rng(0)
    sources = torch.from_numpy(generator.integers(2, 60, (20, 7)))
    given = {"input_ids": sources, "attention_mask": torch.ones_like(sources)}
    with torch.no_grad():
        made = plain.generate(**given, do_sample=False, max_new_tokens=8, eos_token_id=None, use_cache=True)
        steps = model(**given, decoder_input_ids=made[:, :-1], use_cache=False).logits.argmax(dim=-1)
    assert torch.equal(made[:, 1:], steps)
    assert len({tuple(row) for row in made.tolist()}) > 2


@ALL
def test_answers_do_not_depend_on_the_other_prompts(name: str, llama: Path) -> None:
    spec = spec_of(llama, settings(name))
    report = data_report(spec).model_copy(update={"virtual_tokens": COUNT})
    model = attached(llama, settings(name))
    disturb(model)
    rows = [[7, 8, 9], [10, 11, 12, 13, 14, 15], [16, 17, 18], [19]]

    def answers(chosen: list[list[int]]) -> list[str]:
        lengths = np.array([len(row) for row in chosen])
        tokens = TokenRows(np.concatenate(chosen).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))
        prompts = CausalPrompts(tokens, tokens, lengths, [""] * len(chosen))
        made = Generator(report, GenerationSpec(max_new_tokens=6), lambda found: [str(one) for one in found], CPU)
        return made.answers(model, prompts, lambda _: None)

    together = answers(rows)
    assert together == [answers([row])[0] for row in rows]
    assert len(set(together)) > 1


def modernbert(directory: Path) -> Path:
    config = ModernBertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0)
    ModernBertModel(config).save_pretrained(directory)
    return directory


def test_a_head_whose_name_ends_as_that_of_the_network_is_stored(tmp_path: Path) -> None:
    """PEFT would take the mlp_head of PTuning for the head of ModernBERT."""
    base = modernbert(tmp_path / "base")
    model = attached(base, settings("PTuning"), "TextClassification")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any("mlp_head" in name and "modules_to_save" in name for name in trained)
    assert any("base_model.head.modules_to_save" in name for name in trained)


def test_a_model_without_a_cache_has_no_prefix(tmp_path: Path) -> None:
    with pytest.raises(StageFailure) as caught:
        tried(modernbert(tmp_path / "base"), "PrefixTuning")
    assert caught.value.reason is Reason.BAD_CONFIGURATION
    assert "method.prefixTuning does not fit ModernBertForSequenceClassification: Model does not support past" in str(
        caught.value
    )


def test_sizes_with_other_names(tmp_path: Path) -> None:
    DistilBertModel(DistilBertConfig(vocab_size=40, dim=32, n_layers=1, n_heads=2, hidden_dim=64)).save_pretrained(
        tmp_path
    )
    tried(tmp_path, "PromptTuning")
    model = attached(tmp_path, settings("PromptTuning"), task="TextClassification")
    assert model.active_peft_config.token_dim == 32


def tried(base: Path, name: str) -> None:
    """Try the method as prepare does."""
    from finetune_trainer.train.trial import try_method

    spec = spec_of(base, settings(name), "TextClassification")
    report = data_report(spec)
    try_method(base, spec, report, form_of(spec.task.type, report.family))


def test_a_prompt_takes_gradients_only_to_itself(llama: Path) -> None:
    model = attached(llama, settings("PTuning"))
    model(input_ids=TOKENS).logits.sum().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient
    assert all(name.startswith("prompt_encoder.") for name in with_gradient)
    assert isinstance(model.get_base_model(), LlamaForCausalLM)
