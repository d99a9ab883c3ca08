"""``finetune advise``: the methods that rules allow, their memory, the order, and what is printed."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import Device, PrepareResult, Stage, TrainResult, World
from finetune_api.tables.gpus import Gpu
from finetune_api.tables.methods import MethodType, Quantization
from finetune_cli.advise.advise import check_rows, stops_as_interrupt
from finetune_cli.advise.candidates import Candidate, candidates, distributed_of
from finetune_cli.advise.costs import Cost, Costs, DataFacts, Speed, cost_of
from finetune_cli.advise.earlier import with_earlier
from finetune_cli.advise.hardware import Hardware, named, shape_of, this_machine
from finetune_cli.advise.models import ModelScore, addresses, best_first, measured
from finetune_cli.advise.recommend import Trial, bits_of, ordered, recommended
from finetune_cli.advise.report import WIDTH, Advice, document, lines, manifest_lines
from finetune_cli.advise.tries import STEPS, trial_job
from finetune_cli.local import LocalError, Machine, StateDirectory
from finetune_cli.local.jobs import LocalJob
from finetune_core.runs import RunId, StageRun
from tests.builders import a_job, a_report, an_identity

GIB = 1 << 30
GPU = World(workers=1, processes_per_worker=2, device=Device.GPU)
FACTS = DataFacts(3249, 23_620, 23_620, 12, "encoder", 25)
CLASSES = {"type": "TextClassification"}
GIB_TEXT = "1.1 GB"
HUB = {"uri": "hf://o/m"}
ASKED = {"mode": "Responses", "teacher": {"endpoint": {"url": "http://localhost/v1", "model": "large"}}}
RAW = {
    "parameters": 1_000_000_000,
    "rounded": None,
    "trained": 10_000_000,
    "activationBytes": 8 * GIB,
    "recomputedBytes": 2 * GIB,
    "precision": "BF16",
    "rows": 8,
    "steps": 300,
    "tokens": 60_000,
}


def by_name(found: list[Candidate]) -> dict[str, Candidate]:
    return {one.name: one for one in found}


def cost(method: str, raw: dict[str, Any] | None = None, limit: float | None = None, **spec: Any) -> Cost:
    """The cost of a method on two GPUs with ``limit`` GiB each."""
    quantization, teacher = spec.pop("quantization", "None"), spec.pop("teacher", None)
    job = a_job(method={"type": method}, model={"uri": "hf://o/m", "quantization": quantization}, **spec)
    candidate = Candidate(MethodType(method), Quantization(quantization), job.spec)
    bytes_ = None if limit is None else round(limit * GIB)
    return cost_of(candidate, job.spec, {**RAW, **(raw or {})}, world=GPU, limit=bytes_, program=0, teacher=teacher)


def known(*trained: tuple[str, int], facts: DataFacts = FACTS) -> Costs:
    return Costs(facts, 16 * GIB, tuple(cost(method, {"trained": count}) for method, count in trained))


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
        assert "it is within 2% of the lowest and trains 816,012 parameters" in why
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


class TestReport:
    spec = a_job(task=CLASSES, training={"learningRate": 1e-3}).spec

    def advice(self, **changes: Any) -> Advice:
        costs = known(("LoRA", 816_012), ("Full", 22_700_000), ("IA3", 168_588))
        costs = replace(costs, found=(*costs.found, cost("PTuning", limit=1.0)))
        advice = Advice(
            self.spec,
            "job.yaml",
            Hardware(GPU, Gpu.L4),
            candidates(self.spec, {}),
            costs,
            recommended(costs, self.spec),
        )
        return replace(advice, **changes)

    def test_fits_a_terminal_and_names_what_to_write(self) -> None:
        trials = [
            Trial("LoRA", 50, 1.7, 20.0, Speed(500.0, 5.0), GIB, 816_012),
            Trial("Full", 50, None, 0.0, Speed(0.0, 0.0), None, 0, "the loss became nan"),
        ]
        models = [
            ModelScore("hf://a/" + "long" * 20, "accuracy of the linear probe", 0.6, True, 200, 10**9, 65.0),
            ModelScore("hf://b/c", "accuracy of the linear probe", 0.7, True, 200, 10**6, 5.0),
            ModelScore("hf://d/e", problem="not found " * 20),
        ]
        advice = self.advice(trials=trials, models=models)
        costs = replace(
            advice.costs, found=tuple(one.with_speed(Speed(500.0, 5.0), "tried") for one in advice.costs.found)
        )
        found = lines(replace(advice, costs=costs))
        assert max(map(len, found)) <= WIDTH
        assert [line.split()[0] for line in found if "recommended" in line] == ["LoRA"]
        text = "\n".join(found)
        assert "All methods get the manifest's training.learningRate 0.001" in text
        assert "2m05s (tried)" in text
        assert "Full: the loss became nan" in text
        assert "Best on these rows: b/c with 0.7, before …/" in text
        assert "PTuning: it needs about" in text
        assert found[-2:] == ["  method: {type: LoRA}", "  distributed: {workers: 1, gpusPerWorker: 2}"]

    def test_json_has_the_same_figures(self) -> None:
        advice = self.advice(models=[ModelScore("hf://b/c", "bits per byte, zero-shot", 1.5, False, 200, 10**6, 5.0)])
        found = json.loads(json.dumps(document(advice)))
        assert found["recommendation"]["method"] == "LoRA"
        assert found["recommendation"]["manifest"] == manifest_lines(advice)
        lora = found["methods"][0]
        assert (lora["rank"], lora["trainedParameters"], lora["memoryBytes"]) == (
            1,
            816_012,
            advice.costs.found[0].memory,
        )
        assert [one["rank"] for one in found["methods"] if not one["fits"]] == [None]
        assert {"method": "Full", "quantization": "NF4"}.items() <= found["refused"][0].items()
        assert found["models"][0]["value"] == 1.5

    def test_a_teacher_is_a_part_of_memory_and_time_or_has_still_to_answer(self) -> None:
        spec = a_job(task=CLASSES, distillation={"teacher": {"uri": "hf://o/large"}}).spec
        assert "include the teacher of spec.distillation." in " ".join(lines(self.advice(spec=spec)))
        asked = a_job(task={"type": "InstructionTuning"}, distillation=ASKED).spec
        costs = replace(known(("LoRA", 816_012), ("Full", 22_700_000)), data=replace(FACTS, questions=5000))
        advice = self.advice(spec=asked, costs=costs, recommendation=recommended(costs, asked))
        text = " ".join(lines(advice))
        assert "The teacher would be asked up to 5,000 questions; advise asks none." in text
        assert "How much there is to learn depends on the answers of the teacher" in text
        assert document(advice)["data"]["bits"] is None

    def test_a_search_is_the_last_row_and_says_when_to_prefer_it(self) -> None:
        method = {"type": "PromptSearch", "promptSearch": {"propose": 1, "examples": 50}}
        spec = a_job(task=CLASSES, method=method).spec
        found = Cost(
            Candidate(MethodType.PROMPT_SEARCH, Quantization.NONE, spec),
            parameters=10**6,
            memory=GIB,
            steps=24,
            tokens=9_000,
            chat_template=False,
        ).with_speed(Speed(100.0, 6.0), "revision 2")
        costs = known(("LoRA", 816_012))
        costs = replace(costs, data=replace(FACTS, validation_rows=361), found=(found, *costs.found))
        advice = self.advice(spec=spec, costs=costs, recommendation=recommended(costs, spec))
        shown = lines(advice)
        text = " ".join(shown)
        assert [line.split()[:2] for line in shown if GIB_TEXT in line] == [["PromptSearch", "none"]]
        assert "Use LoRA" in text
        assert (
            "The manifest asks for PromptSearch, which trains nothing: it scores at most 24 combinations of an "
            "instruction with examples on 50 validation rows, 4s each (revision 2), about 9,000 tokens in all." in text
        )
        assert "while there are few rows (here 3,249), if the model follows instructions: this one has no chat" in text
        assert document(advice)["search"]
        alone = replace(costs, found=(found,))
        only = self.advice(spec=self.spec, costs=alone, recommendation=recommended(alone, self.spec))
        assert "Use PromptSearch: no method that trains is possible here" in " ".join(lines(only))
        assert "  method: {type: PromptSearch, promptSearch: {propose: 4}}" in lines(only)

    def test_what_the_manifest_has_is_not_repeated(self) -> None:
        spec = a_job(task=CLASSES, method={"type": "LoRA"}).spec
        advice = replace(self.advice(), spec=spec, hardware=Hardware(GPU))
        assert lines(advice)[-1] == "job.yaml says so already."

    def test_rounding_and_smaller_micro_batches_are_written(self) -> None:
        choice = replace(cost("LoRA", quantization="NF4"), rows=2)
        costs = Costs(FACTS, None, (choice,))
        advice = self.advice(costs=costs, recommendation=recommended(costs, self.spec))
        assert "  model: {quantization: NF4}  # beside the uri" in lines(advice)
        assert "  training: {maxBatchSizePerDevice: 2}" in lines(advice)

    def test_without_a_method_or_a_model(self) -> None:
        costs = Costs(FACTS, GIB, ())
        advice = self.advice(costs=costs, recommendation=recommended(costs, self.spec))
        advice = replace(advice, models=[ModelScore("hf://d/e", problem="not found")])
        found = lines(advice)
        assert "No method fits." in found
        assert found[-1] == "No method fits; the reasons are above."


class TestModels:
    def test_the_best_first_and_failures_last(self) -> None:
        bits = [
            ModelScore(name, "bits per byte", value, False) for name, value in (("a", 2.0), ("b", 1.0), ("c", None))
        ]
        assert [one.uri for one in best_first(bits)] == ["b", "a", "c"]
        shares = [ModelScore(name, "accuracy", value) for name, value in (("a", 0.2), ("b", 0.4))]
        assert [one.uri for one in best_first([*bits[2:], *shares, bits[0]])] == ["b", "a", "a", "c"]

    def test_paths_become_addresses_and_each_is_measured_once(self, tmp_path: Path) -> None:
        given = ["hf://a/b, " + str(tmp_path / "x" / ".." / "y"), "hf://a/b,"]
        assert addresses(given) == ["hf://a/b", (tmp_path / "y").as_uri()]

    def test_an_address_that_is_none_is_a_row_with_its_reason(self, tmp_path: Path) -> None:
        found = measured(a_job(), "ftp://a/b", tmp_path / "model")
        assert found.value is None
        assert found.problem.startswith("model.uri is 'ftp://a/b'; a URI starts with")


class TestEarlier:
    def ran(
        self, root: Path, speed: float, revision: int, world: World = GPU, *, attempt: int = 1, **spec: Any
    ) -> LocalJob:
        """The job as it ran on this machine, with a train stage in ``revision``."""
        job = a_job(task=CLASSES, model=HUB, **spec)
        state = StateDirectory(root)
        run = StageRun(RunId(revision, Stage.TRAIN, attempt), an_identity(revision=revision), world, job.spec)
        directory = state.run(run.id)
        directory.path.mkdir(parents=True)
        config = run.config(workspace="/workspace", termination_message_path="/t", port=1, main_port=2)
        directory.config.write_text(config.model_dump_json(exclude_none=True))
        report = a_report(Stage.TRAIN)
        assert isinstance(report.result, TrainResult)
        result = report.result.model_copy(update={"tokens_per_second": speed})
        directory.termination.write_bytes(report.model_copy(update={"result": result}).to_termination_message())
        return LocalJob(state, job, "job.yaml", running=False)

    def test_the_last_revision_that_trained_in_the_same_way_says_the_time(self, tmp_path: Path) -> None:
        self.ran(tmp_path, 100.0, 1)
        self.ran(tmp_path, 500.0, 2)
        local = self.ran(tmp_path, 900.0, 3, method={"type": "IA3"})
        found = {one.candidate.name: one for one in with_earlier([*known(("LoRA", 1), ("Full", 1)).found], local, GPU)}
        assert (found["LoRA"].seconds, found["LoRA"].measured_in) == (60_000 / 500, "revision 2")
        assert found["Full"].seconds is None

    def test_the_start_validation_and_checkpoints_take_time_too(self) -> None:
        result = a_report(Stage.TRAIN).result
        assert isinstance(result, TrainResult)
        result = result.model_copy(update={"tokens": 3000, "tokens_per_second": 100.0})
        assert Speed.of(result, 42.0) == Speed(100.0, 12.0)
        assert Speed.of(result, 29.9).overhead == 0  # Rounded times may differ.
        assert replace(cost("LoRA"), tokens=6000).with_speed(Speed(100.0, 12.0), "tried").seconds == 72

    def test_a_search_took_the_same_in_any_world_of_its_device_unless_it_was_resumed(self, tmp_path: Path) -> None:
        method = {"type": "PromptSearch", "promptSearch": {"propose": 4}}
        searched = Cost(
            Candidate(MethodType.PROMPT_SEARCH, Quantization.NONE, a_job(task=CLASSES, model=HUB, method=method).spec),
            tokens=900,
        )
        alone = World(workers=1, processes_per_worker=1, device=Device.GPU)
        local = self.ran(tmp_path / "a", 90.0, 1, alone, method=method)
        assert with_earlier([searched], local, GPU)[0].seconds == 10
        resumed = self.ran(tmp_path / "b", 90.0, 1, alone, attempt=2, method=method)
        assert with_earlier([searched], resumed, GPU) == [searched]

    def test_other_settings_or_hardware_say_nothing(self, tmp_path: Path) -> None:
        costs = [*known(("LoRA", 1)).found]
        other = World(workers=1, processes_per_worker=1, device=Device.CPU)
        assert with_earlier(costs, None, GPU) == costs
        assert with_earlier(costs, self.ran(tmp_path / "a", 100.0, 1, other), GPU) == costs
        assert with_earlier(costs, self.ran(tmp_path / "b", 100.0, 1, training={"batchSize": 64}), GPU) == costs
        broken = self.ran(tmp_path / "c", 100.0, 1)
        broken.state.run(RunId(1, Stage.TRAIN, 1)).config.write_text("{}")
        assert with_earlier(costs, broken, GPU) == costs


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
