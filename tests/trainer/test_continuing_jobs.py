"""Whole jobs that continue from a published adapter, or are measured against an earlier revision."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from finetune_api.failures import Reason
from finetune_api.manifest import Manifest
from finetune_api.stage import Stage
from finetune_trainer.row_hashes import read_learned, read_test_rows
from tests.trainer.conftest import prepared
from tests.trainer.continuing_fixtures import a_published_adapter
from tests.trainer.preference_fixtures import preference_job
from tests.trainer.prepare_fixtures import a_context, json_lines, refused
from tests.trainer.prepare_fixtures import prepared as prepared_here
from tests.trainer.stages import TinyJob
from tests.trainer.tiny_models import LABELS, make_texts, save_bert

METHOD = {"type": "LoRA", "lora": {"rank": 4, "alpha": 8, "dropout": 0}}
LEARNED = 4


@dataclass(frozen=True)
class Continued:
    """A job that continues from an adapter, and the adapter."""

    job: TinyJob
    adapter: Path
    digest: str


def succeeded(job: TinyJob, *stages: Stage, **settings: Any) -> None:
    for stage in stages:
        outcome = job.run(stage, **settings)
        assert outcome.code == 0, outcome.log


@pytest.fixture(scope="module")
def continued(classification: TinyJob) -> Continued:
    """Prepared, with a base model without dropout; the adapter was trained on four rows of the test split."""
    root, base = classification.root, classification.root / "calm"
    shutil.copytree(root / "base", base)
    config = json.loads((base / "config.json").read_text())
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (base / "config.json").write_text(json.dumps(config | calm))
    with pa.memory_map(str(classification.revision / "prepared" / "test.arrow")) as source:
        texts = pa.ipc.open_file(source).read_all()["text"].to_pylist()[:LEARNED]
    adapter = root / "published" / "adapter"
    _, digest = a_published_adapter(adapter, base, METHOD, "TextClassification", texts)
    model = {"uri": base.as_uri(), "adapter": {"uri": adapter.as_uri(), "digest": digest}}
    spec = {**classification.spec, "model": model, "method": {"type": "LoRA"}}
    spec["training"] = {**spec["training"], "warmupSteps": 3, "maxSteps": 8, "schedule": "Linear"}
    spec["output"] = {**spec["output"], "keep": {"preparedData": True}}
    spec["evaluation"] = {"publishWorse": True, "baseline": "Previous", "metrics": ["accuracy", "macro_f1"]}
    return Continued(prepared(TinyJob(root, spec, "continued")), adapter, digest)


def test_a_job_continues_and_is_measured_without_the_learned_rows(continued: Continued) -> None:
    job = continued.job
    data = json.loads((job.revision / "prepared" / "data.json").read_text())
    assert data["continued"]["digest"] == continued.digest
    assert data["continued"]["learned_test_rows"] == LEARNED
    assert any("rank 4, alpha 8" in note for note in data["notes"])
    succeeded(job, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH)
    rates = [point["learningRate"] for point in job.history()]
    assert rates[:4] == pytest.approx([0, 5e-3 / 3, 2 * 5e-3 / 3, 5e-3])
    assert rates[-1] < 2e-3
    test = data["splits"]["test"]["examples"]
    assert (job.evaluation["baseline"]["kind"], job.evaluation["examples"]) == ("Previous", test - LEARNED)
    details = job.evaluation["details"]
    assert details["learnedBefore"] == {"testRows": LEARNED, "leftOut": LEARNED, "of": test, "known": True}
    assert details["previous"]["digest"] == continued.digest
    assert details["untuned"]["metric"] == "accuracy"
    assert details["untuned"]["kind"] in ("LinearProbe", "MajorityClass")
    note = f"{LEARNED} of {test} test examples, which the previous model was trained on, are left out"
    assert any(note in one for one in job.evaluation["notes"])
    page = (job.artifact / "report.html").read_text()
    assert note in page
    assert "the previous model" in page
    card = (job.artifact / "README.md").read_text()
    assert continued.digest in card
    assert data["model"]["revision"] in card
    published = json.loads((job.artifact / "manifest.json").read_text())["provenance"]
    assert published["adapter"]["digest"] == continued.digest
    assert published["spec"]["method"]["lora"]["rank"] == 4


def test_the_artifact_is_one_adapter_on_the_bare_base_with_the_evaluated_score(continued: Continued) -> None:
    job = continued.job
    base = AutoModelForSequenceClassification.from_pretrained(job.root / "calm", num_labels=len(LABELS))
    model = PeftModel.from_pretrained(base, job.artifact).eval()
    assert model.peft_config["default"].r == 4
    assert list(model.peft_config) == ["default"]
    learned = read_learned(job.artifact)
    splits = json.loads((job.revision / "prepared" / "data.json").read_text())["splits"]
    assert len(learned.by_task["TextClassification"]) == splits["train"]["examples"] + LEARNED
    test = read_test_rows(job.revision / "prepared")
    assert int(learned.of("TextClassification", test).sum()) == LEARNED


def test_after_a_crash_it_goes_on_from_its_own_checkpoint(continued: Continued) -> None:
    """With ZeRO-3, whose processes have parts of the head and of the adapter."""
    again = continued.job.named("continued-again", distributed={"zero": {"stage": 3}})
    with again.start(Stage.TRAIN, processes=2) as running:
        running.wait_until(lambda: bool(again.steps_stored))
    assert again.steps_stored[0] == 4
    outcome = again.run(Stage.TRAIN, attempt=2, processes=2)
    assert outcome.code == 0, outcome.log
    assert again.losses() == pytest.approx(continued.job.losses(), rel=1e-3, abs=1e-4)


def test_a_later_revision_is_measured_against_an_earlier_artifact(continued: Continued) -> None:
    spec = {**continued.job.spec, "model": {"uri": (continued.job.root / "calm").as_uri()}, "method": METHOD}
    spec["training"] = {**spec["training"], "maxSteps": 2}
    later = TinyJob(continued.job.root, spec, "later")
    previous = {"revision": 1, "uri": continued.adapter.as_uri(), "digest": continued.digest}
    prepare = later.run(Stage.PREPARE, previous=previous)
    assert prepare.report.result is not None
    assert f"{LEARNED} of" in " ".join(prepare.report.result.notes)  # type: ignore[union-attr]
    succeeded(later, Stage.TRAIN)
    succeeded(later, Stage.EVALUATE, previous=previous)
    assert later.evaluation["baseline"]["kind"] == "Previous"
    assert later.evaluation["details"]["previous"] == previous
    assert later.evaluation["details"]["learnedBefore"]["leftOut"] == LEARNED
    shutil.rmtree(later.revision / "evaluated")
    succeeded(later, Stage.EVALUATE)
    assert later.evaluation["baseline"]["kind"] in ("LinearProbe", "MajorityClass")
    assert any("published no earlier revision" in note for note in later.evaluation["notes"])


def test_rewards_are_measured_against_the_adapter(tmp_path: Path) -> None:
    plain = preference_job(tmp_path, "DPO")
    adapter = tmp_path / "adapter"
    a_published_adapter(adapter, tmp_path / "base", {"type": "LoRA", "lora": {"rank": 4, "dropout": 0.3}})
    model = {**plain.spec["model"], "adapter": {"uri": adapter.as_uri()}}
    method = {"type": "LoRA", "preference": {"loss": "DPO"}}
    job = prepared(TinyJob(tmp_path, {**plain.spec, "model": model, "method": method}, "dpo"))
    succeeded(job, Stage.TRAIN, Stage.EVALUATE)
    assert job.losses()[0] == pytest.approx(math.log(2), abs=1e-5)
    metrics = {metric["name"]: metric for metric in job.evaluation["metrics"]}
    assert metrics["margin"]["measuredAgainst"] == "Previous"
    assert job.evaluation["baseline"]["kind"] == "BaseModel"
    assert job.evaluation["details"]["learnedBefore"]["notComparable"] == ["InstructionTuning"]
    row = job.predictions[0]
    found = row["logProbabilities"]["chosen"]
    assert row["rewards"]["chosen"] == pytest.approx(0.1 * (found["tuned"] - found["reference"]), rel=1e-4)
    assert abs(found["reference"] - found["baseline"]) > 1e-3


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A BERT and an adapter for it."""
    root = tmp_path_factory.mktemp("simple")
    save_bert(root / "base")
    _, digest = a_published_adapter(root / "adapter", root / "base", METHOD, "TextClassification")
    return root / "base", root / "adapter", digest


def _truncated(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _one_byte(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _foreign(adapter: Path) -> None:
    (adapter / "manifest.json").unlink()


def _revision(adapter: Path) -> None:
    moved = shutil.move(adapter, adapter.with_name("moved"))
    shutil.move(moved, adapter / "artifact")


def _model(adapter: Path) -> None:
    shutil.rmtree(adapter)
    save_bert(adapter)


def _other(adapter: Path) -> None:
    for file in list(adapter.iterdir()):
        if file.name != "README.md":
            file.unlink()
    (adapter / "README.md").write_text("Something else.\n")


def _whole(adapter: Path) -> None:
    path = adapter / "manifest.json"
    manifest = Manifest.model_validate_json(path.read_bytes())
    spec = {**manifest.provenance["spec"], "method": {"type": "Full"}}
    files = tuple(entry for entry in manifest.files if not entry.path.startswith("adapter_"))
    changed = Manifest(files=files, provenance={**manifest.provenance, "spec": spec})
    path.write_bytes(changed.to_bytes())


def _nothing(adapter: Path) -> None:
    shutil.rmtree(adapter)


@pytest.mark.parametrize(
    ("damage", "changes", "expected"),
    [
        (_truncated, {}, (Reason.BAD_DATA, "incomplete or corrupt: adapter_model.safetensors has other content")),
        (_one_byte, {}, (Reason.BAD_DATA, "adapter_model.safetensors has other content than its manifest says")),
        (
            _foreign,
            {},
            (Reason.BAD_CONFIGURATION, "merge the adapter into its base model with merge_and_unload of PEFT"),
        ),
        (_revision, {}, (Reason.BAD_CONFIGURATION, "it is the directory of a revision: name file://")),
        (_model, {}, (Reason.BAD_CONFIGURATION, "it is a whole model: set model.uri to it, and remove model.adapter")),
        (_other, {}, (Reason.BAD_CONFIGURATION, "has no manifest.json, which every artifact of finetune has; name an")),
        (_whole, {}, (Reason.BAD_CONFIGURATION, "is a whole model, trained with method Full: set model.uri to it")),
        (_nothing, {}, (Reason.NOT_FOUND, "model.adapter: there is no artifact at file://")),
        (None, {"digest": f"sha256:{'1' * 64}"}, (Reason.BAD_CONFIGURATION, "it is another artifact; correct the")),
        (None, {"method": {"type": "IA3"}}, (Reason.BAD_CONFIGURATION, "trained with method LoRA, and method.type is")),
        (None, {"method": {"type": "LoRA", "lora": {"rank": 8}}}, (Reason.BAD_CONFIGURATION, "rank is 8, but")),
        (None, {"labels": LABELS[:2]}, (Reason.BAD_CONFIGURATION, "has also 'weather', compared with the 2 labels")),
        (None, {"base": "other"}, (Reason.BAD_CONFIGURATION, "trained on another base model than model.uri")),
        (None, {"base": "copy"}, None),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_prepare(
    simple: tuple[Path, Path, str],
    tmp_path: Path,
    damage: Callable[[Path], None] | None,
    changes: dict[str, Any],
    expected: tuple[Reason, str] | None,
) -> None:
    base, published, digest = simple
    adapter = tmp_path / "adapter"
    shutil.copytree(published, adapter)
    if damage:
        damage(adapter)
        digest = ""
    if changes.get("base") == "other":
        base = tmp_path / "other"
        save_bert(base, initializer_range=0.5)
    elif changes.get("base") == "copy":
        base = shutil.copytree(base, tmp_path / "copy")
        (base / "README.md").write_text("Copied.\n")
    labels = changes.get("labels", LABELS)
    rows = [{"text": text, "label": labels[label % len(labels)]} for text, label in make_texts(60, 1)]
    source = {"uri": adapter.as_uri(), "digest": changes.get("digest", digest) or None}
    context = a_context(
        tmp_path,
        {"uri": base.as_uri(), "adapter": {name: value for name, value in source.items() if value}},
        {"type": "TextClassification"},
        {"train": {"uri": json_lines(tmp_path / "train.jsonl", rows)}},
        method=changes.get("method", {"type": "LoRA"}),
        distributed={"gpusPerWorker": 0},
    )
    if expected is None:
        _, report = prepared_here(context)
        assert report.continued is not None
        return
    failure = refused(context)
    assert (failure.reason, expected[1] in failure.message) == (expected[0], True), failure.message
