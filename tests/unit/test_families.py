"""How prepare handles a model family, decided from the results of tests/families."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_api.tables.tasks import ModelFamily
from finetune_trainer.modelling.families import Families, Family, Limit, decide_handling, load_families
from finetune_trainer.prepared import ModelHandling
from tests.families import results

FAMILIES = Families(
    transformers="5.0",
    peft="0.1",
    tasks={
        "CAUSAL_LM": {
            "llama": Family(
                model_class="LlamaForCausalLM", attention="sdpa", without={"PrefixTuning": "it has no cache"}
            ),
            "opt": Family(model_class="OPTForCausalLM", attention="sdpa", limits=(Limit.PACKING,)),
            "rwkv": Family(model_class="RwkvForCausalLM", attention="eager", limits=(Limit.BATCH, Limit.GENERATION)),
            "ctrl": Family(model_class="CTRLLMHeadModel", limits=(Limit.GENERATION,)),
            "bert": Family(model_class="BertLMHeadModel", requires={"is_decoder": True}),
            "xlnet": Family(model_class="XLNetLMHeadModel", refused="a token sees the tokens after it"),
            "big": Family(model_class="BigForCausalLM", untested="its tests take too long"),
        },
        "SEQ_CLS": {"bert": Family(model_class="BertForSequenceClassification", attention="sdpa")},
    },
    others=("vit",),
)


def decide(
    model_type: str | None,
    *,
    labels: tuple[str, ...] = (),
    installed: str = "5.0",
    training: Any = None,
    method: str = "LoRA",
    **config: Any,
) -> ModelHandling:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://acme/model"},
            "task": {"type": "TextClassification" if labels else "InstructionTuning"},
            "dataset": {"train": {"uri": "file:///train.jsonl"}},
            "training": training or {},
            "method": {"type": method},
            "output": {"uri": "file:///output"},
        },
        strict=False,
    )
    return decide_handling(
        FAMILIES,
        spec,
        {"model_type": model_type, **config},
        adapter_task="SEQ_CLS" if labels else "CAUSAL_LM",
        family=ModelFamily.CAUSAL,
        labels=labels,
        installed=installed,
    )


def refusal(*arguments: Any, **settings: Any) -> str:
    with pytest.raises(StageFailure) as caught:
        decide(*arguments, **settings)
    assert caught.value.reason is Reason.BAD_CONFIGURATION
    return str(caught.value)


def test_a_family_without_limits_packs_and_batches_and_has_nothing_to_report() -> None:
    handling = decide("llama")
    assert (handling.tested, handling.packing, handling.batching, handling.batched_generation) == (True,) * 4
    assert handling.attention == "sdpa"
    assert handling.notes == ()


def test_packing_is_off_and_reported_for_a_family_that_mixes_the_examples_of_a_row() -> None:
    handling = decide("opt")
    assert not handling.packing
    assert handling.batching
    assert handling.notes == ("packing is off, because OPTForCausalLM does not separate the examples of a packed row",)


def test_packing_that_the_job_asks_for_is_refused_where_it_cannot_be_right() -> None:
    message = refusal("opt", training={"packing": True})
    assert message.startswith("training.packing is true, but OPTForCausalLM does not separate the examples")
    assert message.endswith("set training.packing to false")
    assert decide("opt", training={"packing": False}).notes == ()
    assert decide("llama", training={"packing": True}).packing


def test_a_family_whose_outputs_depend_on_padding_runs_one_example_at_a_time() -> None:
    handling = decide("rwkv")
    assert handling.packing
    assert not handling.batching
    assert not handling.batched_generation
    assert handling.notes == (
        "examples run one at a time, because the outputs of RwkvForCausalLM depend on padding",
        "attention is eager, because RwkvForCausalLM has no SDPA implementation",
    )
    assert decide("ctrl").notes == (
        "answers are generated one at a time, because those of CTRLLMHeadModel depend on padding",
    )


def test_a_refused_family_is_bad_configuration_with_the_reason() -> None:
    assert refusal("xlnet") == (
        "XLNetLMHeadModel of hf://acme/model cannot be tuned for InstructionTuning: a token sees the tokens after it; "
        "choose another model"
    )


def test_an_encoder_is_a_causal_model_only_with_is_decoder() -> None:
    assert 'config.json does not have "is_decoder": true' in refusal("bert", is_decoder=False)
    assert 'config.json does not have "is_decoder": true' in refusal("bert")
    assert decide("bert", is_decoder=True).tested


def test_a_model_type_without_a_class_for_the_task_is_refused() -> None:
    assert 'no model class for InstructionTuning with model_type "vit"' in refusal("vit")
    assert 'no model class for TextClassification with model_type "opt"' in refusal("opt", labels=("a", "b"))
    assert '"gpt9" of hf://acme/model is unknown to transformers 5.0' in refusal("gpt9")
    assert "has no model_type" in refusal(None)


@pytest.mark.parametrize(
    ("model_type", "installed", "cause"),
    [("big", "5.0", "its tests take too long"), ("gpt9", "5.1", "transformers 5.1 is installed")],
)
def test_an_untested_family_runs_unpacked_one_example_at_a_time(model_type: str, installed: str, cause: str) -> None:
    handling = decide(model_type, installed=installed)
    assert (handling.tested, handling.packing, handling.batching, handling.batched_generation) == (False,) * 4
    assert handling.attention is None
    assert handling.unused_parameters
    assert len(handling.notes) == 1
    assert "is untested with transformers 5.0" in handling.notes[0]
    assert cause in handling.notes[0]
    assert "was not tested with packing" in refusal(model_type, installed=installed, training={"packing": True})


CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "id2label": {"1": "no", "0": "yes"}}


def test_the_head_of_a_classifier_is_kept_only_for_the_same_labels_in_the_same_order() -> None:
    kept = decide("bert", labels=("yes", "no"), **CLASSIFIER)
    assert not kept.new_head
    assert kept.notes == (
        "the classification head of the base model is kept, because it has the labels of the job in this order",
    )
    for labels in (("no", "yes"), ("fruit", "metal"), ("yes", "no", "maybe")):
        replaced = decide("bert", labels=labels, **CLASSIFIER)
        assert replaced.new_head, labels
        assert replaced.notes == (
            "the classification head of the base model, with 2 labels (yes, no), is replaced by a new one, because its "
            "labels differ from those of the job",
        )


@pytest.mark.parametrize("names", [None, [], {"first": "yes"}, {"0": ["yes"]}])
def test_a_base_model_without_usable_labels_gets_a_new_head(names: Any) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "id2label": names}
    assert decide("bert", labels=("yes", "no"), **config).new_head
    assert decide("bert", labels=("yes", "no"), architectures=["BertModel"]).new_head


def test_the_generated_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["--check"]) == 0, capsys.readouterr().err


def test_every_verdict_occurs_in_the_results() -> None:
    verdicts = {results.verdict(family) for task in load_families().tasks.values() for family in task.values()}
    assert verdicts == {"works", "limits", "refused", "untested"}


@pytest.mark.parametrize("model_type", ["t5", "bart", "llama", "gpt2"])
def test_answers_are_not_extracted_with_models_that_generate(model_type: str) -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://acme/model"},
            "task": {"type": "QuestionAnswering"},
            "dataset": {"train": {"uri": "file:///train.jsonl"}},
            "output": {"uri": "file:///output"},
        },
        strict=False,
    )
    with pytest.raises(StageFailure, match="answers are extracted with encoders such as BERT") as caught:
        decide_handling(
            load_families(),
            spec,
            {"model_type": model_type},
            adapter_task="QUESTION_ANS",
            family=ModelFamily.ENCODER,
            labels=(),
            installed=load_families().transformers,
        )
    assert caught.value.reason is Reason.BAD_CONFIGURATION


def test_virtual_tokens_are_for_the_families_that_they_were_tested_with() -> None:
    assert refusal("llama", method="PrefixTuning") == (
        "method PrefixTuning is not for LlamaForCausalLM of hf://acme/model and InstructionTuning: it has no cache; "
        "use LoRA"
    )
    assert "its tests take too long" in refusal("big", method="PTuning")
    assert "PTuning was not tested with model_type" in refusal("gpt9", method="PTuning", installed="5.1")
    handling = decide("llama", method="PromptTuning")
    assert not handling.packing
    assert not handling.batched_generation
    assert handling.notes == (
        "packing is off with method PromptTuning, because only the first example of a row would stand behind the "
        "virtual tokens",
    )
