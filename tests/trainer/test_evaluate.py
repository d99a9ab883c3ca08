"""The evaluate stage with tiny real models: scores, baselines, stored files and invalid inputs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from evaluation_fixtures import Job, classification_job, instruction_job
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.evaluation import BaselineKind
from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import MANIFEST_NAME
from finetune_api.spec import Metric
from finetune_api.stage import Stage
from finetune_trainer.context import Reporter
from finetune_trainer.evaluate.generation import until_end
from finetune_trainer.evaluate.prompts import CausalPrompts
from finetune_trainer.manifests import fetch_directory, publish_directory, read_manifest
from finetune_trainer.modelling.batching import BatchLimits, TokenRows, each_batch, length_sorted, padded
from finetune_trainer.splits import open_split
from finetune_trainer.stages.evaluate import run
from finetune_trainer.storage import delete_tree


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return classification_job(tmp_path_factory.mktemp("classified"))


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return instruction_job(tmp_path_factory.mktemp("instructed"))


def _copy(job: Job, target: Path) -> Job:
    """The same job with a separate storage directory."""
    document = job.spec.model_dump(mode="json", exclude_none=True)
    shutil.copytree(job.root / "storage", target / "storage")
    document["output"]["uri"] = (target / "storage").as_uri()
    return Job(target, type(job.spec).model_validate_json(json.dumps(document)), job.data)


def _rewrite_trained(job: Job, change: object) -> None:
    """Replace the trained weights, including their manifest, by a modified copy."""
    uri = job.config(Stage.EVALUATE).layout.trained
    local = job.root / "changed"
    fetch_directory(uri, local)
    (local / MANIFEST_NAME).unlink()
    change(local)  # type: ignore[operator]
    delete_tree(uri)
    publish_directory(local, uri, {"changed": True, "inputsDigest": "sha256:" + "0" * 64})


def _predictions(job: Job) -> list[dict[str, object]]:
    path = job.root / "storage/team-a/tiny/r1/evaluated/predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_classifier_is_compared_with_a_linear_probe(classified: Job, tmp_path: Path) -> None:
    job = _copy(classified, tmp_path)
    result = run(job.context(Stage.EVALUATE))
    evaluation = result.evaluation
    assert evaluation.baseline.kind is BaselineKind.LINEAR_PROBE
    assert [metric.name for metric in evaluation.metrics] == [Metric.ACCURACY, Metric.MACRO_F1]
    assert (evaluation.split, evaluation.examples) == ("test", 90)
    rows = _predictions(job)
    gold = [row["label"] for row in rows]
    for model in ("baseline", "tuned"):
        predicted = [row[model] for row in rows]
        expected = accuracy_score(gold, predicted), f1_score(gold, predicted, average="macro")
        assert [getattr(metric, model) for metric in evaluation.metrics] == pytest.approx(list(expected))
    assert evaluation.metrics[0].tuned > 0.85
    assert 0.5 < evaluation.metrics[0].baseline < evaluation.metrics[0].tuned
    stored = read_manifest(result.uri)
    assert stored is not None
    assert stored.digest == result.digest
    assert {entry.path for entry in stored.files} == {"evaluation.json", "predictions.jsonl", "report.html"}
    assert stored.provenance["baseline"]["linearProbe"]["trainExamples"] == 480


def test_second_attempt_reuses_the_first_and_reports_its_metrics(classified: Job, tmp_path: Path) -> None:
    job = _copy(classified, tmp_path)
    first = run(job.context(Stage.EVALUATE))
    reading, writing = os.pipe()
    context = job.context(Stage.EVALUATE, reporter=Reporter(writing))
    assert run(context) == first
    os.close(writing)
    with os.fdopen(reading) as pipe:
        events = [json.loads(line) for line in pipe]
    assert [(event["event"], event["model"], event["metric"]) for event in events] == [
        ("evaluation", model, str(metric.name))
        for metric in first.evaluation.metrics
        for model in ("baseline", "tuned")
    ]
    assert list(context.workspace.iterdir()) == []


def test_result_is_reproducible_and_recomputed_for_other_weights(classified: Job, tmp_path: Path) -> None:
    job = _copy(classified, tmp_path)
    first = run(job.context(Stage.EVALUATE))
    delete_tree(first.uri)
    assert run(job.context(Stage.EVALUATE)).digest == first.digest

    def shrink(directory: Path) -> None:
        weights = load_file(directory / "adapter_model.safetensors")
        save_file({name: tensor * 0.1 for name, tensor in weights.items()}, directory / "adapter_model.safetensors")

    _rewrite_trained(job, shrink)
    second = run(job.context(Stage.EVALUATE))
    assert second.digest != first.digest
    assert second.evaluation.metrics[0].tuned < first.evaluation.metrics[0].tuned


def test_a_failed_gate_is_a_result_with_a_report(classified: Job, tmp_path: Path) -> None:
    job = _copy(classified, tmp_path)
    gates = [{"metric": "weighted_f1", "minimumImprovement": 0.99}, {"metric": "accuracy", "minimum": 0.1}]
    result = run(job.context(Stage.EVALUATE, job.with_spec(evaluation={"gates": gates, "publishWorse": True})))
    assert [gate.passed for gate in result.evaluation.gates] == [False, True]
    assert not result.evaluation.passed
    assert [metric.name for metric in result.evaluation.metrics][-1] is Metric.WEIGHTED_F1
    assert "Rejected: 1 of 2 gates failed" in (tmp_path / "storage/team-a/tiny/r1/evaluated/report.html").read_text()


def test_a_fully_tuned_classifier_is_evaluated(tmp_path: Path) -> None:
    job = classification_job(tmp_path, full=True)
    assert run(job.context(Stage.EVALUATE)).evaluation.metrics[0].tuned > 0.9


def test_generator_is_compared_with_the_base_model(instructed: Job, tmp_path: Path) -> None:
    job = _copy(instructed, tmp_path)
    metrics = ["rouge_l", "exact_match", "loss", "token_accuracy", "chrf"]
    spec = job.with_spec(evaluation={"metrics": metrics, "generation": {"maxNewTokens": 8}})
    evaluation = run(job.context(Stage.EVALUATE, spec)).evaluation
    assert evaluation.baseline.kind is BaselineKind.BASE_MODEL
    results = {str(metric.name): metric for metric in evaluation.metrics}
    assert list(results) == metrics
    assert all(result.improvement > 0 for result in results.values())

    # Recomputed for one example at a time, without padding.
    tokenizer = AutoTokenizer.from_pretrained(instructed.root / "base")
    base = AutoModelForCausalLM.from_pretrained(instructed.root / "base")
    tuned = PeftModel.from_pretrained(base, instructed.root / "trained").eval()
    table = open_split(instructed.root / "prepared", "test")
    nats, tokens, hits, answers = 0.0, 0, 0, []
    for row in table.to_pylist():
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.inference_mode():
            output = tuned(input_ids=ids, labels=labels)
            answer = tuned.generate(
                input_ids=ids[:, : row["prompt_length"]], max_new_tokens=8, do_sample=False, pad_token_id=0
            )
        learned = int((labels[:, 1:] != -100).sum())
        nats, tokens = nats + float(output.loss) * learned, tokens + learned
        hits += int((output.logits[:, :-1].argmax(-1) == labels[:, 1:]).sum())
        answers.append(tokenizer.decode(answer[0, row["prompt_length"] :], skip_special_tokens=True).strip())
    assert results["loss"].tuned == pytest.approx(nats / tokens, rel=1e-4)
    assert results["token_accuracy"].tuned == pytest.approx(hits / tokens)
    assert [row["tuned"] for row in _predictions(job)] == answers
    exact = np.mean([answer == row["reference"] for answer, row in zip(answers, table.to_pylist(), strict=True)])
    assert results["exact_match"].tuned == pytest.approx(exact)


def test_no_answers_are_generated_for_the_loss_metric(instructed: Job, tmp_path: Path) -> None:
    job = _copy(instructed, tmp_path)
    result = run(job.context(Stage.EVALUATE, job.with_spec(evaluation={"metrics": ["loss"]})))
    assert [metric.name for metric in result.evaluation.metrics] == [Metric.LOSS]
    assert all(row["tuned"] is None for row in _predictions(job))
    assert (tmp_path / "storage/team-a/tiny/r1/evaluated/report.html").stat().st_size > 5000


def test_a_fully_tuned_generator_is_evaluated(tmp_path: Path) -> None:
    job = instruction_job(tmp_path, full=True)
    metrics = run(job.context(Stage.EVALUATE)).evaluation.metrics
    assert all(metric.improvement > 0 for metric in metrics)


def test_generated_tokens_are_cut_at_the_first_end() -> None:
    tokens = np.array([5, 6, 2, 7, 2])
    assert until_end(tokens, (2, 9)).tolist() == [5, 6]
    assert until_end(tokens, (9,)).tolist() == tokens.tolist()
    assert until_end(tokens, ()).tolist() == tokens.tolist()


def test_prompt_and_answer_fit_into_the_positions_of_the_model() -> None:
    lengths = np.array([10, 60, 63])
    tokens = TokenRows(np.zeros(lengths.sum(), np.int32), np.cumsum([0, *lengths]))
    prompts = CausalPrompts(tokens, labels=tokens, prompt_lengths=lengths, references=[])
    assert prompts.limits(8, 64).tolist() == [8, 4, 1]
    assert prompts.limits(8, None).tolist() == [8, 8, 8]


def _no_trained(job: Job) -> None:
    delete_tree(job.config(Stage.EVALUATE).layout.trained)


def _no_prepared(job: Job) -> None:
    delete_tree(job.config(Stage.EVALUATE).layout.prepared)


def _no_weights(job: Job) -> None:
    _rewrite_trained(job, lambda directory: (directory / "adapter_model.safetensors").unlink())


def _no_adapter_config(job: Job) -> None:
    _rewrite_trained(job, lambda directory: (directory / "adapter_config.json").unlink())


def _not_finite(job: Job) -> None:
    def spoil(directory: Path) -> None:
        weights = load_file(directory / "adapter_model.safetensors")
        name = next(name for name in weights if "lora_B" in name)
        save_file(weights | {name: weights[name] * float("nan")}, directory / "adapter_model.safetensors")

    _rewrite_trained(job, spoil)


def _missing_tensor(job: Job) -> None:
    def drop(directory: Path) -> None:
        weights = load_file(directory / "adapter_model.safetensors")
        weights.pop(next(name for name in weights if "lora_A" in name))
        save_file(weights, directory / "adapter_model.safetensors")

    _rewrite_trained(job, drop)


@pytest.mark.parametrize(
    ("damage", "reason", "message"),
    [
        (_no_trained, Reason.NOT_FOUND, "run the train stage first"),
        (_no_prepared, Reason.NOT_FOUND, "it has no manifest.json"),
        (_no_weights, Reason.NOT_FOUND, "adapter cannot be read"),
        (_no_adapter_config, Reason.NOT_FOUND, "lack the file adapter_config.json"),
        (_not_finite, Reason.DIVERGED, "tuned model's output on the test split is not finite"),
        (_missing_tensor, Reason.INTERNAL_ERROR, "1 tensors are missing or unexpected"),
    ],
)
def test_a_damaged_input_is_reported_in_one_sentence(
    classified: Job, tmp_path: Path, damage: object, reason: Reason, message: str
) -> None:
    job = _copy(classified, tmp_path)
    damage(job)  # type: ignore[operator]
    with pytest.raises(StageFailure) as failure:
        run(job.context(Stage.EVALUATE))
    assert failure.value.reason is reason
    assert message in failure.value.message
    assert "\n" not in failure.value.message
    assert read_manifest(job.config(Stage.EVALUATE).layout.evaluated) is None


def test_a_loss_that_is_not_finite_is_reported_as_diverged(instructed: Job, tmp_path: Path) -> None:
    job = _copy(instructed, tmp_path)
    _not_finite(job)
    with pytest.raises(StageFailure, match="tuned model's loss on the test split is not finite") as failure:
        run(job.context(Stage.EVALUATE, job.with_spec(evaluation={"metrics": ["loss"]})))
    assert failure.value.reason is Reason.DIVERGED


def test_token_ids_outside_the_vocabulary_are_rejected(classified: Job, tmp_path: Path) -> None:
    job = _copy(classified, tmp_path)
    uri = job.config(Stage.EVALUATE).layout.prepared
    local = tmp_path / "changed"
    fetch_directory(uri, local)
    (local / MANIFEST_NAME).unlink()
    table = pa.table(open_split(local, "train").to_pydict(), schema=open_split(local, "train").schema)
    rows = table["input_ids"].to_pylist()
    rows[3][0] = 5000
    table = table.set_column(0, "input_ids", pa.array(rows, pa.list_(pa.int32())))
    with pa.OSFile(str(local / "train.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    delete_tree(uri)
    publish_directory(local, uri, {})
    with pytest.raises(StageFailure, match="The data contains token id 5000, but the vocabulary") as failure:
        run(job.context(Stage.EVALUATE))
    assert failure.value.reason is Reason.BAD_CONFIGURATION


def test_an_adapter_without_its_randomly_initialised_layer_is_rejected(tmp_path: Path) -> None:
    # If the base model has no pooler, training initialises one randomly, and PEFT stores only the head by default.
    job = classification_job(tmp_path, steps=1, pooler=False)
    with pytest.raises(StageFailure, match=r"randomly initialised parameter bert\.pooler\.dense\.bias"):
        run(job.context(Stage.EVALUATE))


def test_batches_contain_every_row_once_and_respect_their_limits() -> None:
    lengths = np.random.default_rng(1).integers(1, 40, 200)
    batches = length_sorted(lengths, BatchLimits(examples=16, tokens=128))
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert all(len(batch) <= 16 and len(batch) * lengths[batch].max() <= 128 for batch in batches)
    assert [len(batch) for batch in length_sorted(np.array([500, 2, 2]), BatchLimits(8, 128))] == [1, 2]


def test_a_batch_that_does_not_fit_is_halved() -> None:
    done: list[int] = []

    def work(batch: np.ndarray) -> None:
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        done.extend(batch)

    each_batch([np.arange(10), np.arange(10, 12)], work)
    assert done == list(range(12))

    def never(_: np.ndarray) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(StageFailure) as failure:
        each_batch([np.arange(4)], never)
    assert failure.value.reason is Reason.OUT_OF_MEMORY


def test_padding_is_on_the_requested_side() -> None:
    rows = TokenRows.of_column(
        pa.chunked_array([pa.array([[1, 2, 3], [4]]), pa.array([[5, 6]])]).cast(pa.list_(pa.int32()))
    )
    assert [list(rows[index]) for index in range(3)] == [[1, 2, 3], [4], [5, 6]]
    tokens, mask = padded(rows, np.array([2, 0]), fill=9, left=True)
    assert tokens.tolist() == [[9, 5, 6], [1, 2, 3]]
    assert mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert padded(rows, np.array([1, 2]), fill=9)[0].tolist() == [[4, 9], [5, 6]]
    assert [list(row) for row in (rows.take(np.array([2, 1]))[0], rows.heads(np.array([1, 1, 2]))[0])] == [[5, 6], [1]]
