"""Tasks of lm-eval: what evaluate measures of a decoder with an adapter and of a T5."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_fixtures import instruction_job
from harness_fixtures import write_tasks
from prepare_fixtures import a_context
from transformers import AutoModelForSeq2SeqLM

from finetune_api.failures import StageFailure
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import EvaluateResult, Stage, StageConfig
from finetune_trainer.context import Reporter, StageContext
from finetune_trainer.manifests import publish_directory
from finetune_trainer.stages import evaluate, prepare, publish
from tests.trainer.pair_models import save_t5
from tests.trainer.stages import merged, write_jsonl
from tests.trainer.tiny_models import make_texts

pytestmark = pytest.mark.usefixtures("harness_library")

NAMES = ["choice/acc", "choice/acc_norm", "write/exact_match", "write/chrf", "rolling/word_perplexity"]


@dataclass
class Tuned:
    """A job after the evaluate stage."""

    root: Path
    config: StageConfig
    result: EvaluateResult

    @property
    def evaluated(self) -> Path:
        return Path(self.config.layout.evaluated.removeprefix("file://"))

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.evaluated / "evaluation.json").read_text())
        return document

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.document["metrics"] if "/" in row["name"]}

    def context(self, reporter: Reporter | None = None, **evaluation: Any) -> StageContext:
        """The context of another stage or attempt, with changes to spec.evaluation."""
        spec = merged(self.config.spec.model_dump(mode="json", exclude_none=True), {"evaluation": evaluation})
        config = self.config.model_copy(update={"spec": FineTuneJobSpec.model_validate_json(json.dumps(spec))})
        workspace = self.root / f"again{len(list(self.root.glob('again*')))}"
        workspace.mkdir()
        return StageContext(config, workspace, reporter or Reporter(None))

    def plain(self, models: dict[str, dict[str, str]], chat: bool) -> dict[str, Any]:
        """What ``simple_evaluate`` of lm-eval measures."""
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        before = os.getcwd()
        os.chdir(self.root / "tasks")  # lm-eval reads data files relative to it.
        try:
            return {
                name: simple_evaluate(
                    model="hf",
                    model_args=arguments | {"dtype": "float32"},
                    device="cpu",
                    batch_size=4,
                    tasks=["choice", "write", "rolling"],
                    task_manager=TaskManager(include_path=str(self.root / "tasks"), include_defaults=False),
                    apply_chat_template=chat,
                    bootstrap_iters=0,
                )["results"]
                for name, arguments in models.items()
            }
        finally:
            os.chdir(before)

    def assert_equal(self, plain: dict[str, Any]) -> None:
        for model, by_task in plain.items():
            for name, row in self.rows.items():
                task, _, metric = name.partition("/")
                assert row[model] == pytest.approx(by_task[task][f"{metric},none"], rel=1e-4), (model, name)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A chat model with an adapter; its gate on write/exact_match fails."""
    root = tmp_path_factory.mktemp("decoder")
    uri = write_tasks(root / "tasks")
    job = instruction_job(root, steps=40)
    spec = job.with_spec(
        evaluation={
            "publishWorse": True,
            "generation": {"maxNewTokens": 8},
            "harness": ["choice", "write", "rolling"],
            "harnessPath": {"uri": uri},
            "gates": [
                {"metric": "choice/acc", "minimum": 0.0},
                {"metric": "write/exact_match", "minimum": 1.0},
                {"metric": "rolling/word_perplexity", "minimumImprovement": -1e9},
            ],
        }
    )
    context = job.context(Stage.EVALUATE, spec)
    return Tuned(root, context.config, evaluate.run(context))


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A T5 whose weights have moved at random."""
    root = tmp_path_factory.mktemp("seq2seq")
    texts = [text for text, _ in make_texts(24, 2)]
    save_t5(root / "base", [*texts, "summarize: what is it fruit metal weather"])
    data = write_jsonl(root / "rows.jsonl", [{"text": text, "summary": text.split()[-1]} for text in texts])
    context = a_context(
        root,
        (root / "base").as_uri(),
        {"type": "Summarization"},
        {"train": {"uri": data}, "cleaning": {"deduplicate": "None"}},
        method={"type": "Full"},
        evaluation={
            "publishWorse": True,
            "generation": {"maxNewTokens": 6},
            "harness": ["choice", "write", "rolling"],
            "harnessPath": {"uri": write_tasks(root / "tasks")},
            "gates": [{"metric": "choice/acc", "minimum": 0.0}],
        },
    )
    prepared = prepare.run(context)
    model = AutoModelForSeq2SeqLM.from_pretrained(root / "base")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(root / "trained")
    for name in ("history.json", "training.json"):
        (root / "trained" / name).write_text("{}")
    publish_directory(root / "trained", context.config.layout.trained, {"inputsDigest": prepared.inputs_digest})
    return Tuned(root, context.config, evaluate.run(context))


class TestDecoder:
    def test_has_rows_of_tasks_after_its_own(self, decoder: Tuned) -> None:
        names = [row["name"] for row in decoder.document["metrics"]]
        assert names == ["rouge_l", "exact_match", "loss", *NAMES]
        assert decoder.result.evaluation.metrics[0].verdict is decoder.result.evaluation.verdict

    def test_measures_what_lm_eval_alone_does(self, decoder: Tuned) -> None:
        base, tokenizer = str(decoder.root / "base"), str(decoder.root / "prepared/tokenizer")
        adapter = {"pretrained": base, "peft": str(decoder.root / "trained"), "tokenizer": tokenizer}
        plain = decoder.plain({"baseline": {"pretrained": base}, "tuned": adapter}, chat=True)
        decoder.assert_equal(plain)
        assert all(row["baseline"] != row["tuned"] for row in decoder.rows.values())

    def test_pairs_the_examples(self, decoder: Tuned) -> None:
        lines = [json.loads(line) for line in (decoder.evaluated / "harness.jsonl").read_text().splitlines()]
        of_write = [line for line in lines if line["task"] == "write"]
        assert [line["example"] for line in of_write] == list(range(24))
        for model in ("baseline", "tuned"):
            values = [line["scores"]["write/exact_match"][model] for line in of_write]
            assert sum(values) / 24 == pytest.approx(decoder.rows["write/exact_match"][model])
        row = decoder.rows["write/exact_match"]
        assert row["interval"][0] <= row["change"] <= row["interval"][1]
        assert decoder.rows["rolling/word_perplexity"]["higherIsBetter"] is False

    def test_says_how_it_was_measured(self, decoder: Tuned) -> None:
        details = decoder.document["details"]["harness"]
        assert (details["version"], details["chatTemplate"]) == ("0.4.13", True)
        assert details["files"]["digest"] == decoder.document["harnessDigest"]
        assert details["tasks"]["choice"] == {
            "source": "choice.yaml",
            "version": 2.0,
            "examples": 24,
            "fewshot": 1,
            "resamples": {"choice/acc": 4000, "choice/acc_norm": 4000},
        }
        assert "of the lm-eval task choice" in (decoder.evaluated / "report.html").read_text()

    def test_is_not_published_if_a_gate_on_a_task_fails(self, decoder: Tuned) -> None:
        passed = {gate.metric: gate.passed for gate in decoder.result.evaluation.gates}
        assert passed == {"choice/acc": True, "write/exact_match": False, "rolling/word_perplexity": True}
        with pytest.raises(StageFailure, match="its gate on write/exact_match failed"):
            publish.run(decoder.context())

    def test_is_evaluated_again_only_after_a_task_file_has_changed(self, decoder: Tuned) -> None:
        assert evaluate.run(decoder.context()).digest == decoder.result.digest
        path = decoder.root / "tasks/data/test.jsonl"
        content = path.read_text()
        path.write_text("\n".join(content.splitlines()[:12]) + "\n")
        try:
            again = evaluate.run(decoder.context())
        finally:
            path.write_text(content)
        assert again.evaluation.harness_digest != decoder.result.evaluation.harness_digest
        assert (
            json.loads((decoder.evaluated / "evaluation.json").read_text())["details"]["harness"]["tasks"]["choice"][
                "examples"
            ]
            == 12
        )


class TestSeq2Seq:
    def test_artifact_measures_the_same_in_lm_eval_alone(self, seq2seq: Tuned) -> None:
        artifact = publish.run(seq2seq.context()).uri.removeprefix("file://")
        plain = seq2seq.plain(
            {"baseline": {"pretrained": str(seq2seq.root / "base")}, "tuned": {"pretrained": artifact}}, chat=False
        )
        seq2seq.assert_equal(plain)
        assert seq2seq.rows["rolling/word_perplexity"]["change"] != 0

    def test_answers_end_at_the_limit_of_the_task(self, seq2seq: Tuned) -> None:
        lines = [json.loads(line) for line in (seq2seq.evaluated / "harness.jsonl").read_text().splitlines()]
        lengths = [len(line["tuned"][0].split()) for line in lines if line["task"] == "write"]
        assert max(lengths) == 6

    def test_card_names_the_tasks(self, seq2seq: Tuned) -> None:
        card = Path(seq2seq.config.layout.artifact.removeprefix("file://"), "README.md").read_text()
        assert "choice/acc" in card
