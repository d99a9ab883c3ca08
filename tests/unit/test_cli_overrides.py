"""The option ``--set``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import FineTuneJob
from finetune_cli.lint import findings
from finetune_cli.manifest import ManifestError, load
from finetune_cli.overrides import overridden, overrides_of
from finetune_cli.submit import submissions

MANIFEST = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: intents}
spec:
  model: {uri: "hf://owner/encoder"}
  task: {type: TextClassification}
  dataset: {train: {uri: "s3://data/intents.jsonl"}}
  training: ~
  evaluation: {gates: [{metric: accuracy, minimum: 0.5}]}
  output: {uri: "s3://adapters"}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(MANIFEST.replace("  training: ~\n", ""))
    return "job.yaml"


def loaded(file: str, *settings: str) -> FineTuneJob:
    overrides = overrides_of(settings)
    return load(file, lambda document: overridden(document, overrides))


def refusal(file: str, *settings: str) -> str:
    with pytest.raises(ManifestError) as caught:
        loaded(file, *settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("training.epochs=1", "training.epochs", 1),
        ("spec.training.learningRate=2e-4", "training.learning_rate", 2e-4),
        ("evaluation.gates[0].minimum=0.9", "evaluation.gates.0.minimum", 0.9),
        ("evaluation.publishWorse=yes", "evaluation.publish_worse", True),
        ("model.revision='1'", "model.revision", "1"),
        ("task.labels=[a, b]", "task.labels", ("a", "b")),
        ("output.uri=file://./out", "output.uri", None),
        ("evaluation.gates=[]", "evaluation.gates", ()),
    ],
)
def test_values_are_yaml(file: str, setting: str, field: str, value: Any) -> None:
    found: Any = loaded(file, setting).spec
    for part in field.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == (Path("out").absolute().as_uri() if value is None else value)


def test_last_of_several_settings_counts(file: str) -> None:
    job = loaded(file, "training.epochs=1", "metadata.name=other", "training.epochs=2")
    assert (job.metadata.name, job.spec.training.epochs) == ("other", 2)


def test_problems_name_the_option(file: str) -> None:
    assert refusal(file, "training.epoch=1") == (
        "--set training.epoch=1: spec.training.epoch is not a field; did you mean epochs?"
    )
    assert refusal(file, "trainig.epochs=1") == (
        "--set trainig.epochs=1: spec.trainig is not a field; did you mean training?"
    )
    assert (
        refusal(file, "training.epochs=0") == "--set training.epochs=0: spec.training.epochs must be above 0; it is 0"
    )
    assert refusal(file, "training={epochs: 0}").startswith("--set training={epochs: 0}: spec.training.epochs must be")
    assert refusal(file, "model.uri.x=1").endswith("spec.model.uri is not a group of fields, so it has no field x")
    assert "spec.evaluation.gates[1] does not exist" in refusal(file, "evaluation.gates[1].minimum=1")
    assert refusal(file, "training.epochs").startswith("--set training.epochs: is not FIELD=VALUE")
    assert "has a value that is not YAML" in refusal(file, "training.epochs=[1")


def test_an_option_that_contradicts_the_file_is_named(file: str) -> None:
    Path(file).write_text(MANIFEST.replace("training: ~", "training: {maxSteps: 5}"))
    assert refusal(file, "training.seed=3", "training.epochs=2", "metadata.name=a") == (
        "--set training.epochs=2: spec.training.maxSteps: set epochs or maxSteps, not both"
    )
    assert refusal(file, "task.labels=[a, b]", "task.type=InstructionTuning") == (
        "--set task.labels=[a, b]: spec.task.labels: labels are only valid for type TextClassification"
    )
    assert refusal(file, "task.type=InstructionTuning", "metadata.name=a").startswith(
        "--set task.type=InstructionTuning: spec.evaluation.gates: gates of InstructionTuning can be on"
    )


def test_what_the_file_alone_gets_wrong_is_named_in_the_file(file: str) -> None:
    Path(file).write_text(MANIFEST.replace("training: ~", "training: {epochs: 2, maxSteps: 5}"))
    assert refusal(file, "training.seed=3").startswith("job.yaml:8: spec.training.maxSteps: set epochs or maxSteps")


def test_lint_and_submit_use_it_too(file: str) -> None:
    assert [str(one) for one in findings([file], overrides_of(["training.epoch=1"])).problems] == [
        "--set training.epoch=1: spec.training.epoch is not a field; did you mean epochs?"
    ]
    (found,) = submissions([file], None, overrides_of(["training.epochs=1"]))
    assert found.manifest["spec"]["training"] == {"epochs": 1}
    with pytest.raises(
        ManifestError, match=r"--set output\.uri=file://\./out: spec\.output\.uri is .*pods cannot read"
    ):
        submissions([file], None, overrides_of(["output.uri=file://./out"]))
