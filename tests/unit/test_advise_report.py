"""The page of `finetune advise`, and the runs that it knows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.stage import Device, Stage, TrainResult, World
from finetune_api.tables.gpus import Gpu
from finetune_api.tables.methods import MethodType, Quantization
from finetune_cli.advise.candidates import Candidate, candidates
from finetune_cli.advise.costs import Cost, Costs, Speed
from finetune_cli.advise.earlier import with_earlier
from finetune_cli.advise.hardware import Hardware
from finetune_cli.advise.models import ModelScore, addresses, best_first, measured
from finetune_cli.advise.notes import search_sentences
from finetune_cli.advise.recommend import Trial, recommended
from finetune_cli.advise.report import WIDTH, Advice, document, lines, manifest_lines
from finetune_cli.local import StateDirectory
from finetune_cli.local.jobs import LocalJob
from finetune_core.runs import RunId, StageRun
from tests.builders import a_job, a_report, an_identity
from tests.unit.advice_fixtures import ASKED, CLASSES, FACTS, GIB, GIB_TEXT, GPU, HUB, cost, known


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
        assert "--try" not in text
        assert search_sentences(replace(advice, tries=1))[-1].startswith("--try trains, and so tries no search: run")
        rounded = replace(found, candidate=Candidate(MethodType.PROMPT_SEARCH, Quantization.NF4, spec))
        both = replace(costs, found=(found, rounded, *costs.found))
        assert document(replace(advice, costs=both))["search"] == document(advice)["search"]
        only_rounded = search_sentences(replace(advice, costs=replace(costs, found=(rounded,))))
        assert [one.partition(":")[0] for one in only_rounded] == [
            "PromptSearch + NF4 trains nothing",
            "It is useful if the model follows instructions",
        ]
        limited = a_job(task=CLASSES, method={**method, "promptSearch": {"propose": 1, "maxTokens": 8_999}}).spec
        short = replace(found, candidate=replace(found.candidate, spec=limited))
        ends = search_sentences(replace(advice, costs=replace(costs, found=(short,))))[1]
        assert ends == "It ends earlier, before more than the 8,999 tokens of method.promptSearch.maxTokens."
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
