"""``finetune advise``: the methods that rules allow, their memory, the order, and what is printed."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from typing import Any

import pytest

from finetune_api.stage import Device, PrepareResult, Stage, World
from finetune_api.tables.gpus import Gpu
from finetune_api.tables.methods import MethodType, Quantization
from finetune_cli.advise.advise import check_packed_rows, check_rows, stops_as_interrupt, to_prepare
from finetune_cli.advise.candidates import Candidate, candidates, distributed_of
from finetune_cli.advise.costs import Costs, Speed, cost_of
from finetune_cli.advise.hardware import named, shape_of, this_machine
from finetune_cli.advise.recommend import Trial, bits_of, ordered, recommended
from finetune_cli.advise.tries import STEPS, trial_job
from finetune_cli.local import LocalError, Machine
from tests.builders import a_job, a_report
from tests.unit.advice_fixtures import CLASSES, FACTS, GIB, GPU, RAW, by_name, cost, known


class TestCandidates:
    def test_every_method_with_every_way_to_store_the_base_model_the_rules_say_why_not(self) -> None:
        found = by_name(candidates(a_job(task=CLASSES).spec, {}))
        assert len(found) == len(MethodType) * len(Quantization)
        assert found["LoRA + NF4"].spec is not None
        assert found["LoRA + NF4"].spec.model.quantization is Quantization.NF4
        assert found["Full + NF4"].spec is None
        assert found["Full + NF4"].refusal.startswith("model.quantization cannot be combined with method Full, which")

    def test_other_fields_are_those_of_the_manifest_and_settings_those_of_their_method(self) -> None:
        lora = {"type": "LoRA", "lora": {"rank": 4}}
        spec = a_job(task=CLASSES, method=lora, training={"epochs": 2}, suspend=True).spec
        found = by_name(candidates(spec, {"workers": 1, "gpusPerWorker": 8}))
        kept, other = found["LoRA"].spec, found["IA3"].spec
        assert kept is not None
        assert other is not None
        assert kept.method.lora.rank == 4  # type: ignore[attr-defined]
        assert "lora" not in other.method.model_fields_set
        assert (other.training.epochs, other.distributed.gpus_per_worker, other.suspend) == (2, 8, False)

    def test_a_teacher_excludes_methods_and_stays(self) -> None:
        spec = a_job(task=CLASSES, distillation={"teacher": {"uri": "hf://o/large"}}).spec
        found = by_name(candidates(spec, {}))
        assert found["IA3"].spec is None
        assert found["PromptSearch"].spec is None
        lora = found["LoRA"].spec
        assert lora is not None
        assert lora.distillation == spec.distillation

    def test_a_search_has_its_settings_or_suggested_ones_and_one_gpu(self) -> None:
        eight = {"workers": 1, "gpusPerWorker": 8}
        search = {"type": "PromptSearch", "promptSearch": {"candidates": ["Which? {text}"], "trials": 3}}
        given = by_name(candidates(a_job(task=CLASSES, method=search).spec, eight))
        suggested = by_name(candidates(a_job(task=CLASSES).spec, eight))
        own, other = given["PromptSearch"], suggested["PromptSearch"]
        assert own.spec is not None
        assert other.spec is not None
        assert own.spec.method.settings.trials == 3  # type: ignore[union-attr]
        assert other.spec.method.settings.propose == 4  # type: ignore[union-attr]
        assert own.spec.distributed.world_size == 1
        assert given["LoRA"].spec is not None
        assert given["LoRA"].spec.distributed.world_size == 8

    def test_a_search_takes_one_of_the_processes_of_the_manifest(self) -> None:
        on_cpus = a_job(task=CLASSES, distributed={"workers": 2, "gpusPerWorker": 0}).spec
        found = by_name(candidates(on_cpus, {}))["PromptSearch"].spec
        assert found is not None
        assert (found.distributed.workers, found.distributed.gpus_per_worker) == (1, 0)
        assert distributed_of(MethodType.LORA, on_cpus, {}) == {}

    def test_a_search_is_refused_by_the_rules_of_the_spec(self) -> None:
        found = by_name(candidates(a_job(task={"type": "LanguageModeling"}).spec, {}))["PromptSearch"]
        assert found.spec is None
        assert "whose documents answer no prompt" in found.refusal

    def test_a_quantization_of_the_manifest_is_kept(self) -> None:
        spec = a_job(model={"uri": "hf://o/m", "quantization": "NF4"}).spec
        assert {one.quantization for one in candidates(spec, {})} == {Quantization.NF4}

    def test_a_setting_of_the_manifest_excludes_methods(self) -> None:
        spec = a_job(task={"type": "InstructionTuning"}, training={"packing": True}).spec
        refused = by_name(candidates(spec, {}))["PTuning"]
        assert refused.spec is None
        assert "training.packing cannot be combined" in refused.refusal


class TestHardware:
    @pytest.mark.parametrize(
        ("text", "gpu", "count"),
        [("H100x8", Gpu.H100, 8), ("h100", Gpu.H100, 1), ("A100-80GB x 4", Gpu.A100_80, 4), ("T4x3", Gpu.T4, 2)],
    )
    def test_names_and_as_many_as_divide_the_batch(self, text: str, gpu: Gpu, count: int) -> None:
        found = named(text, a_job(training={"batchSize": 32}).spec)
        assert (found.gpu, found.world.size) == (gpu, count)

    @pytest.mark.parametrize("text", ["H10x8", "x8", "H100x0", "H100x2000", ""])
    def test_what_is_no_gpu_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="GPU"):
            named(text, a_job().spec)

    @pytest.mark.parametrize(
        ("text", "sentence"), [("RTX9090", "such as H100x8. Known are"), ("H10x8", "; did you mean H100? Known are")]
    )
    def test_the_known_ones_are_named_in_a_sentence(self, text: str, sentence: str) -> None:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            named(text, a_job().spec)

    def test_many_gpus_are_workers_of_eight(self) -> None:
        found = named("H100x40", a_job(training={"batchSize": 80}).spec)
        assert found.distributed == {"workers": 5, "gpusPerWorker": 8}
        assert named("H100x20", a_job(training={"batchSize": 20}).spec).world.size == 10
        assert shape_of(20) == {}

    def test_each_gpu_needs_a_training_row(self) -> None:
        result = a_report(Stage.PREPARE).result
        assert isinstance(result, PrepareResult)
        few = result.model_copy(update={"examples": {"train": 2, "validation": 1, "test": 5}})
        spec = a_job(task=CLASSES).spec
        with pytest.raises(LocalError, match="--gpu: there are only 2 training rows for 8 H100, and each needs one"):
            check_rows(spec, few, named("H100x8", spec))
        check_rows(spec, few, named("H100x2", spec))
        check_rows(a_job(task={"type": "LanguageModeling"}).spec, few, named("H100x8", spec))

    def test_each_gpu_needs_a_packed_row(self) -> None:
        raw = {"error": "the training data has only 6 packed rows", "packedRows": 6}
        job = a_job(task={"type": "InstructionTuning"}, method={"type": "LoRA"})
        candidate = Candidate(MethodType.LORA, Quantization.NONE, job.spec)
        eight = World(workers=1, processes_per_worker=8, device=Device.GPU)
        few = cost_of(candidate, job.spec, raw, world=eight, gpu=Gpu.H100, limit=None, program=0)
        assert few.problem.startswith("--gpu: the training rows are joined to only 6 packed rows for 8 H100, and each")
        assert "name at most 6, set training.packing to false, or add data" in few.problem
        with pytest.raises(LocalError, match="--gpu: the training rows are joined to only 6 packed rows"):
            check_packed_rows(Costs(FACTS, None, (few,)))
        check_packed_rows(Costs(FACTS, None, (few, cost("PTuning"))))
        here = cost_of(candidate, job.spec, raw, world=eight, limit=None, program=0)
        assert here.problem == raw["error"]

    def test_a_search_is_prepared_where_training_is_not_possible(self) -> None:
        search = {"type": "PromptSearch", "promptSearch": {"propose": 1}}
        for spec in (a_job(task=CLASSES).spec, a_job(task=CLASSES, method=search).spec):
            assert [one.name for one in to_prepare(candidates(spec, {}), spec)] == ["LoRA", "PromptSearch"]
        alone = a_job(task={"type": "LanguageModeling"}).spec
        assert [one.name for one in to_prepare(candidates(alone, {}), alone)] == ["LoRA"]

    def test_this_machine_decides_no_field(self) -> None:
        found = this_machine(a_job(distributed={"workers": 4}).spec, Machine(gpus=0, cores=2))
        assert (found.world.size, found.distributed, found.in_words) == (2, {}, "2 CPU processes of this machine")


class TestMemory:
    def test_adapter_adds_its_gradients_and_optimizer_state(self) -> None:
        found = cost("LoRA", distributed={"zero": {"stage": 0}})
        assert found.memory == 2 * 10**9 + 10**7 * (2 + 2 + 12) + 8 * GIB
        assert found.fits

    def test_recomputes_before_it_takes_fewer_rows(self) -> None:
        fits, recomputed, fewer, too_large = (cost("LoRA", limit=limit) for limit in (16.0, 6.0, 3.5, 2.0))
        assert (fits.recomputes, fits.rows) == (False, None)
        assert (recomputed.recomputes, recomputed.rows) == (True, None)
        assert (fewer.recomputes, fewer.rows) == (True, 4)
        assert too_large.problem.startswith("it needs about 2.4 GB of memory in each process, which has 2.1 GB")

    def test_rows_and_recomputing_of_the_manifest_are_kept(self) -> None:
        assert not cost("LoRA", limit=3.5, training={"maxBatchSizePerDevice": 8}).fits
        never = cost("LoRA", limit=6.0, training={"activationCheckpointing": False})
        assert (never.recomputes, never.rows) == (False, 2)
        always = cost("LoRA", training={"activationCheckpointing": True})
        assert always.memory is not None
        assert always.memory < 5 * GIB

    def test_stage_3_is_named_where_it_would_be_enough(self) -> None:
        full = cost("Full", {"trained": 10**9}, limit=11.0)
        assert "with distributed.zero.stage 3 it would need about" in full.problem
        assert "stage 3" not in cost("PTuning", limit=2.0).problem

    def test_unknown_activations_are_said(self) -> None:
        found = cost("LoRA", {"activationBytes": None, "recomputedBytes": None}, limit=16)
        assert (found.memory, found.fits) == (None, True)
        costs = Costs(FACTS, None, (found,))
        assert "cannot be estimated" in recommended(costs, a_job(task=CLASSES).spec).reasons[1]
        assert not cost("Full", {"activationBytes": None}, limit=2).fits

    def test_a_teacher_of_logits_is_loaded_by_each_process(self) -> None:
        taught = {"teacher": {"uri": "hf://o/large"}}

        def memory(**spec: Any) -> int:
            found = cost("LoRA", teacher=3 * 10**9, **spec).memory
            assert found is not None
            return found

        assert memory(distillation=taught) - memory() == 2 * 3 * 10**9
        assert memory(distillation={**taught, "weight": 0}) == memory()
        partitioned = {"distributed": {"zero": {"stage": 3}}}
        assert memory(distillation=taught, **partitioned) - memory(**partitioned) == 3 * 10**9

    def test_a_search_runs_in_one_process_with_the_memory_of_all_on_cpus(self) -> None:
        raw = {"trained": 0, "activationBytes": 8 * GIB, "recomputedBytes": None, "chatTemplate": True}
        job = a_job(task=CLASSES, method={"type": "PromptSearch", "promptSearch": {"propose": 1}})
        candidate = Candidate(MethodType.PROMPT_SEARCH, Quantization.NONE, job.spec)
        on_cpus = World(workers=1, processes_per_worker=2, device=Device.CPU)
        for world, limit, memory in ((on_cpus, 8, 2 * 10**9 + 10 * GIB), (GPU, 6, 2 * 10**9 + GIB), (GPU, 2, None)):
            found = cost_of(candidate, job.spec, {**RAW, **raw}, world=world, limit=limit * GIB, program=0)
            assert found.memory == memory if memory else not found.fits
            assert found.chat_template is True

    def test_error_of_the_trainer_is_the_reason(self) -> None:
        assert cost("LoRA", {"error": "no linear layers"}).problem == "no linear layers"


class TestRecommendation:
    spec = a_job(task=CLASSES).spec

    def test_of_equally_accurate_methods_the_one_that_trains_less(self) -> None:
        costs = known(("PTuning", 600_000), ("Full", 22_700_000), ("LoRA", 816_012), ("IA3", 168_588))
        assert [str(one.candidate.method) for one in ordered(costs, self.spec)] == ["LoRA", "Full", "IA3", "PTuning"]
        reasons = recommended(costs, self.spec).reasons
        assert reasons[0].startswith(
            "Use LoRA: it trains 816,012 parameters, 0.0816 % of the model, and had an accuracy"
        )
        assert "0.710 on the quickstart, where Full, which trains 22,700,000, reached 0.712." in reasons[0]
        assert "The 3,249 training rows with 12 labels hold at most 11.6 kbit, its parameters can store" in reasons[1]

    def test_of_more_text_than_an_adapter_stores_the_whole_model_learns(self) -> None:
        text = a_job(task={"type": "LanguageModeling"}).spec
        facts = replace(FACTS, labels=None, family="causal", learned_tokens=5_000_000)
        costs = known(("LoRA", 816_012), ("Full", 22_700_000), facts=facts)
        found = recommended(costs, text)
        assert found.choice is not None
        assert found.choice.candidate.method is MethodType.FULL
        assert "5,000,000 learned tokens hold at most 5.0 Mbit" in found.reasons[1]
        assert "(those of LoRA 1.6 Mbit)" in found.reasons[1]

    def test_rounding_comes_last_unless_the_exact_model_does_not_fit(self) -> None:
        rounded = cost("LoRA", quantization="NF4")
        exact, ia3 = cost("LoRA"), cost("IA3")
        names = [one.candidate.name for one in ordered(Costs(FACTS, None, (rounded, exact, ia3)), self.spec)]
        assert names == ["LoRA", "IA3", "LoRA + NF4"]
        no_room = replace(exact, problem="too large")
        names = [one.candidate.name for one in ordered(Costs(FACTS, None, (rounded, no_room, ia3)), self.spec)]
        assert names == ["LoRA + NF4", "IA3"]

    def test_after_trials_the_lowest_loss_decides_unless_it_is_equal(self) -> None:
        costs = known(("LoRA", 816_012), ("Full", 22_700_000))

        def reached(lora: float | None, full: float | None) -> tuple[str, str]:
            trials = [
                Trial(name, 50, loss, 20.0, Speed(500.0, 5.0), GIB, 1)
                for name, loss in (("LoRA", lora), ("Full", full))
            ]
            found = recommended(costs, self.spec, trials)
            assert found.choice is not None
            return found.choice.candidate.name, found.reasons[0]

        assert reached(1.7, 1.2)[0] == "Full"
        name, why = reached(1.701, 1.7)
        assert name == "LoRA"
        assert "it is within 2 % of the lowest and trains 816,012 parameters" in why
        assert reached(None, 1.7)[0] == "Full"
        assert "on the quickstart" in reached(None, None)[1]

    def test_few_steps_are_said_unless_the_manifest_decides_them(self) -> None:
        few = Costs(FACTS, None, (cost("LoRA", {"steps": 30}),))
        wanted = "Its 30 steps are few, in which a model may learn too little: set training.epochs to 10, for about 100"
        trial = Trial("LoRA", 30, 1.7, 20.0, Speed(500.0, 5.0), GIB, 1)
        for trials in ((), (trial,)):
            assert recommended(few, self.spec, trials).reasons[-1].startswith(wanted)
        given = a_job(task=CLASSES, training={"epochs": 3}).spec
        enough = Costs(FACTS, None, (cost("LoRA", {"steps": 100}),))
        assert not any("steps are few" in one for one in recommended(few, given).reasons)
        assert not any("steps are few" in one for one in recommended(enough, self.spec).reasons)

    def test_few_steps_of_packed_rows_are_no_reason_for_many_epochs(self) -> None:
        def last(task: str, batch: int = 32) -> str:
            found = cost("LoRA", {"steps": 3}, task={"type": task}, training={"batchSize": batch})
            return recommended(Costs(FACTS, None, (found,)), a_job(task={"type": task}).spec).reasons[-1]

        begin = "Its 3 steps are few, in which a model may learn too little: the texts are packed into few rows, so "
        assert last("InstructionTuning") == (
            f"{begin}lower training.batchSize, which is 32, or set training.packing to false."
        )
        assert last("InstructionTuning", batch=1) == f"{begin}set training.packing to false."
        assert last("LanguageModeling", batch=1) == f"{begin}lower training.maxSequenceLength."

    def test_nothing_fits(self) -> None:
        costs = Costs(FACTS, GIB, (cost("LoRA", {"error": "no"}),))
        assert recommended(costs, self.spec).choice is None

    @pytest.mark.parametrize(
        ("task", "changes", "bits"),
        [
            (CLASSES, {"labels": 2}, 3249),
            ({**CLASSES, "multiLabel": True}, {}, 3249 * 12),
            ({"type": "QuestionAnswering"}, {"labels": None, "longest": 256}, 3249 * 16),
            ({"type": "PreferenceTuning"}, {"labels": None, "family": "causal"}, 3249),
            ({"type": "InstructionTuning"}, {"labels": None, "family": "causal", "learned_tokens": 700}, 700),
        ],
    )
    def test_what_there_is_to_learn(self, task: dict[str, Any], changes: dict[str, Any], bits: float) -> None:
        assert bits_of(replace(FACTS, **changes), a_job(task=task).spec) == bits


def test_sigterm_ends_the_command_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stops_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_trial_is_the_job_with_few_steps() -> None:
    job = a_job(task=CLASSES, training={"epochs": 9, "earlyStopping": {"patience": 1}})
    spec = by_name(candidates(job.spec, {}))["LoRA"].spec
    one = replace(cost("LoRA"), candidate=Candidate(MethodType.LORA, Quantization.NONE, spec), rows=2)
    trial = trial_job(job, one, "file:///scratch").spec
    assert (trial.training.max_steps, trial.training.epochs, trial.training.evaluate_every_steps) == (
        STEPS,
        None,
        STEPS,
    )
    assert (trial.training.max_batch_size_per_device, trial.training.early_stopping) == (2, None)
    assert (trial.resilience.max_restarts, trial.output.uri) == (0, "file:///scratch")
    assert trial_job(job, replace(one, steps=7), "file:///scratch").spec.training.max_steps == 7
