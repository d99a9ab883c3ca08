"""The settings of LoRA on real, tiny models: where an adapter starts, its ranks, and what is published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import Stage
from finetune_trainer.methods import method_of
from finetune_trainer.methods.lora_eva import RepeatedBatches
from tests.trainer.method_fixtures import as_published, attached, base_logits, disturb, logits, spec_of
from tests.trainer.stages import TinyJob, instruction_job


def lora_of(**settings: Any) -> dict[str, Any]:
    """``spec.method`` for LoRA without dropout."""
    return {"type": "LoRA", "lora": {"dropout": 0, **settings}}


class TestStarts:
    @pytest.mark.parametrize("rslora", [False, True])
    @pytest.mark.parametrize("start", ["PiSSA", "OLoRA", "LoftQ"])
    @pytest.mark.parametrize("base", ["llama", "gpt2"])
    def test_what_is_published_is_what_was_trained(
        self, base: str, start: str, rslora: bool, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        directory: Path = request.getfixturevalue(base)
        method = lora_of(rank=4, alpha=8, initialization=start, useRslora=rslora)
        model = attached(directory, method)
        torch.testing.assert_close(logits(model), base_logits(directory), atol=1e-4, rtol=0)
        disturb(model)
        with model.disable_adapter():
            assert torch.equal(logits(model), base_logits(directory))
        trained = logits(model)
        assert (trained - base_logits(directory)).abs().max() > 0.1
        published = as_published(model, directory, tmp_path, method)
        torch.testing.assert_close(logits(published), trained, atol=1e-4, rtol=0)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert (config["r"], config["init_lora_weights"]) == (8, True)
        assert config["lora_alpha"] == pytest.approx(8 * (2**0.5 if rslora else 2))

    def test_pissa_takes_the_largest_directions(self, llama: Path) -> None:
        model = attached(llama, lora_of(rank=4, alpha=8, initialization="PiSSA"))
        layer = model.base_model.model.model.layers[0].mlp.up_proj
        part = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        left, values, right = torch.linalg.svd(layer.base_layer.weight, full_matrices=False)
        torch.testing.assert_close(part, left[:, :4] * values[:4] @ right[:4], atol=1e-5, rtol=0)

    def test_ranks_of_single_modules_double_as_well(self, llama: Path, tmp_path: Path) -> None:
        method = lora_of(rank=4, alpha=8, initialization="PiSSA", rankPattern={"o_proj": 2})
        model = attached(llama, method)
        disturb(model)
        trained = logits(model)
        published = as_published(model, llama, tmp_path, method)
        torch.testing.assert_close(logits(published), trained, atol=1e-4, rtol=0)

    def test_eva_takes_the_directions_of_the_inputs(self, llama: Path) -> None:
        spec = spec_of(llama, lora_of(rank=4, initialization="EVA"))
        model = attached(llama, lora_of(rank=4, initialization="EVA"))
        torch.manual_seed(2)
        batches = [{"input_ids": torch.randint(5, 40, (8, 6))} for _ in range(4)]
        method_of(spec.method.type).initialise(model, spec, lambda _: batches)
        torch.testing.assert_close(logits(model), base_logits(llama))
        assert not model.peft_config["default"].rank_pattern
        layer = model.base_model.model.model.layers[1].mlp.down_proj
        directions = layer.lora_A["default"].weight
        torch.testing.assert_close(directions @ directions.T, torch.eye(4), atol=1e-4, rtol=0)
        inputs = []
        layer.register_forward_hook(lambda _, given, __: inputs.append(given[0].flatten(0, -2)))
        logits_of_all = [model(**batch) for batch in batches]
        assert logits_of_all
        centred = torch.cat(inputs).detach()
        centred = centred - centred.mean(0)
        kept = (centred @ directions.T).pow(2).sum() / centred.pow(2).sum()
        assert kept > 0.9 * torch.linalg.svdvals(centred)[:4].pow(2).sum() / centred.pow(2).sum()

    def test_eva_needs_as_many_examples_as_the_rank(self, llama: Path) -> None:
        method = lora_of(rank=4, initialization="EVA")
        model, spec = attached(llama, method), spec_of(llama, method)
        with pytest.raises(StageFailure, match="EVA needs at least 4 training examples for rank 4") as caught:
            method_of(spec.method.type).initialise(model, spec, lambda _: [])
        assert caught.value.reason is Reason.BAD_CONFIGURATION

    def test_eva_ends_where_the_directions_do_not_settle(self) -> None:
        batches = RepeatedBatches([{}] * 200)
        list(batches)
        with pytest.raises(StageFailure, match=r"EVA has not settled after 256 batches.*lower method\.lora\.rank"):
            list(batches)


@pytest.mark.parametrize(
    ("lora", "tried"),
    [
        ({"rank": 8, "alpha": 4, "useRslora": True, "loraPlusRatio": 4}, False),
        ({"rank": 64}, True),
        ({"targetModules": ["o_proj"]}, True),
        ({"rankPattern": {"o_proj": 2}}, True),
        ({"initialization": "EVA"}, True),
        ({"useDora": True}, True),
        ({"targetParameters": ["experts.down_proj"]}, True),
    ],
)
def test_only_settings_that_may_not_fit_are_tried_in_prepare(llama: Path, lora: dict[str, Any], tried: bool) -> None:
    spec = spec_of(llama, lora_of(**lora))
    assert method_of(spec.method.type).needs_trial(spec) is tried


class TestRanks:
    def test_each_module_has_the_rank_of_its_key(self, llama: Path) -> None:
        model = attached(llama, lora_of(rank=8, rankPattern={"o_proj": 2, r"layers\.1\.mlp\..*": 4}))
        ranks = {
            name.removeprefix("base_model.model.model.layers."): module.r["default"]
            for name, module in model.named_modules()
            if hasattr(module, "lora_A")
        }
        assert ranks["0.self_attn.o_proj"] == ranks["1.self_attn.o_proj"] == 2
        assert ranks["1.mlp.up_proj"] == 4
        assert ranks["0.mlp.up_proj"] == ranks["1.self_attn.q_proj"] == 8

    @pytest.mark.parametrize(
        ("lora", "message"),
        [
            ({"rankPattern": {"^q_proj": 4}}, r"'\^q_proj' fits no adapted module; adapted modules are model.layers.0"),
            ({"rankPattern": {"model.layers.7.self_attn.v_proj": 4}}, "fits no adapted module"),
            ({"rankPattern": {"lm_head": 4}}, "'lm_head' fits no adapted module"),
            ({"rankPattern": {"(": 4}}, "is not a valid regular expression"),
            ({"rankPattern": {"o_proj": 4, ".*proj": 2}}, "both fit model.layers.0.self_attn.o_proj"),
            ({"rankPattern": {"o_proj": 64}}, r"rankPattern\['o_proj'\] is 64, but .* 32 inputs and 32 outputs"),
            ({"rank": 512}, "method.lora.rank is 512, but model.layers.0.* 32 inputs .* at most rank 32"),
        ],
    )
    def test_a_rank_that_fits_no_module_is_refused(self, llama: Path, lora: dict[str, Any], message: str) -> None:
        with pytest.raises(StageFailure, match=message) as caught:
            attached(llama, lora_of(**lora))
        assert caught.value.reason is Reason.BAD_CONFIGURATION


def test_dora_is_published_with_its_magnitudes(llama: Path, tmp_path: Path) -> None:
    model = attached(llama, lora_of(rank=4, useDora=True))
    torch.testing.assert_close(logits(model), base_logits(llama), atol=1e-5, rtol=0)
    disturb(model)
    trained = logits(model)
    torch.testing.assert_close(logits(as_published(model, llama, tmp_path, lora_of())), trained, atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["use_dora"] is True


class TestJobs:
    """Whole stages, on two processes with ZeRO-2."""

    def test_an_adapter_with_a_start_resumes_and_is_published_for_the_base(self, instruction: TinyJob) -> None:
        lora = {"rank": 4, "alpha": 8, "initialization": "PiSSA", "loraPlusRatio": 4, "dropout": 0}
        reference = instruction.named("started", method={"lora": lora})
        outcome = reference.run(Stage.TRAIN, processes=2)
        assert outcome.code == 0, outcome.log
        resumed = instruction.named("resumed", method={"lora": lora})
        name = "step-00000008"
        shutil.copytree(reference.revision / "checkpoints" / name, resumed.revision / "checkpoints" / name)
        outcome = resumed.run(Stage.TRAIN, attempt=2)
        assert outcome.code == 0, outcome.log
        assert resumed.losses() == pytest.approx(reference.losses(), rel=1e-4)
        mine, theirs = (
            load_file(job.revision / "trained" / "adapter_model.safetensors") for job in (resumed, reference)
        )
        for key, weight in theirs.items():
            torch.testing.assert_close(mine[key], weight, rtol=1e-3, atol=1e-5)
        assert next(weight for key, weight in theirs.items() if "lora_A" in key).shape[0] == 8

    def test_training_that_changes_nothing_leaves_the_score_of_the_base(self, instruction: TinyJob) -> None:
        lora = {"rank": 4, "alpha": 8, "initialization": "OLoRA"}
        training = {"maxSteps": 1, "learningRate": 1e-9}
        job = instruction.named("unchanged", method={"lora": lora}, training=training, evaluation={"metrics": ["loss"]})
        for stage in (Stage.TRAIN, Stage.EVALUATE):
            outcome = job.run(stage)
            assert outcome.code == 0, outcome.log
        (metric,) = job.evaluation["metrics"]
        assert metric["tuned"] == pytest.approx(metric["baseline"], rel=1e-5)

    @pytest.mark.parametrize("stage", [0, 2])
    def test_the_learning_rate_of_b_is_a_multiple(self, instruction: TinyJob, stage: int) -> None:
        training = {"maxSteps": 1, "learningRate": 1e-3, "warmupSteps": 0, "schedule": "Constant", "weightDecay": 1}
        job = instruction.named(
            f"plus-{stage}",
            method={"lora": {"loraPlusRatio": 8, "dropout": 0, "useDora": True}},
            training=training,
            distributed={"zero": {"stage": stage}},
        )
        outcome = job.run(Stage.TRAIN)
        assert outcome.code == 0, outcome.log
        weights = load_file(job.revision / "trained" / "adapter_model.safetensors")
        # B starts at zero, and the first step of Adam has the size of the learning rate.
        largest = max(float(weight.abs().max()) for key, weight in weights.items() if "lora_B" in key)
        assert largest == pytest.approx(8e-3, rel=1e-2)
        assert [point["learningRate"] for point in job.history()] == [1e-3]
        # The magnitudes of DoRA start as the norms of the base weights, and weight decay would take off a thousandth.
        base = LlamaForCausalLM.from_pretrained(job.root / "base").state_dict()
        for key in [key for key in weights if "lora_magnitude_vector" in key]:
            name = key.removeprefix("base_model.model.").replace("lora_magnitude_vector", "weight")
            torch.testing.assert_close(weights[key], base[name].norm(dim=1), atol=1.01e-3, rtol=0)

    def test_eva_reads_the_training_data(self, instruction: TinyJob) -> None:
        job = instruction.named("eva", method={"lora": {"rank": 4, "initialization": "EVA"}}, training={"maxSteps": 1})
        outcome = job.run(Stage.TRAIN, processes=2)
        assert outcome.code == 0, outcome.log
        weights = load_file(job.revision / "trained" / "adapter_model.safetensors")
        directions = next(weight for key, weight in weights.items() if "layers.0.mlp.down_proj.lora_A" in key)
        torch.testing.assert_close(directions @ directions.T, torch.eye(4), atol=0.1, rtol=0)

    def test_ranks_that_fit_no_module_are_refused_before_a_gpu_is_held(self, tmp_path: Path) -> None:
        job = instruction_job(tmp_path, examples=80).changed(method={"lora": {"rankPattern": {"^q_proj": 4}}})
        outcome = job.run(Stage.PREPARE)
        assert outcome.report.error is not None
        assert outcome.report.error.reason is Reason.BAD_CONFIGURATION
        assert "method.lora.rankPattern: '^q_proj' fits no adapted module" in outcome.message
