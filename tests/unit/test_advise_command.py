"""``finetune advise``: what it refuses before it reads any data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from finetune_cli.main import app
from tests.builders import manifest

CLASSES = {"type": "TextClassification"}


def advise(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["advise", *arguments])


class TestCommand:
    @pytest.fixture
    def job(self, tmp_path: Path) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(manifest(task=CLASSES)))
        return str(path)

    def test_problems_of_the_manifest_are_those_of_run(self, job: str) -> None:
        Path(job).write_text(Path(job).read_text().replace("dataset:", "datasets:"))
        result = advise(job, "-o", "json")
        assert result.exit_code == 64
        assert "spec.datasets is not a field; did you mean dataset?" in result.stderr
        assert json.loads(result.stdout)["errors"]

    def test_options_that_contradict_each_other(self, job: str) -> None:
        assert advise(job, "--gpu", "H100x8", "--try", "3").exit_code == 2
        wrong = advise(job, "--gpu", "H10")
        assert wrong.exit_code == 2
        assert "did you mean H100?" in " ".join(wrong.stderr.split())

    def test_an_adapter_decides_the_method(self, job: str) -> None:
        result = advise(job, "--set", "model.adapter.uri=s3://a/b")
        assert result.exit_code == 64
        assert "spec.model.adapter decides method and base model" in result.stderr

    def test_what_cannot_be_tried(self, job: str) -> None:
        teacher = "distillation.teacher.endpoint"
        asked = ("task.type=InstructionTuning", f"{teacher}.url=http://localhost/v1", f"{teacher}.model=large")
        changes = [part for one in (*asked, "distillation.mode=Responses") for part in ("--set", one)]
        result = advise(job, "--try", "1", *changes)
        assert result.exit_code == 64
        assert "those of the teacher in spec.distillation are asked only by finetune run" in result.stderr

    @pytest.mark.parametrize("searched", [True, False], ids=["search", "no method"])
    @pytest.mark.parametrize("option", [("--try", "1"), ("--gpu", "H100")])
    def test_a_model_behind_an_endpoint_is_not_trained(self, job: str, option: tuple[str, str], searched: bool) -> None:
        document = yaml.safe_load(Path(job).read_text())
        document["spec"]["model"] = {"endpoint": {"url": "http://localhost/v1", "model": "large"}}
        document["spec"].pop("method", None)
        if searched:
            document["spec"]["method"] = {"type": "PromptSearch", "promptSearch": {"propose": 1}}
        Path(job).write_text(yaml.safe_dump(document))
        result = advise(job, *option)
        assert result.exit_code == 64
        assert f"{option[0]} is about training" in result.stderr

    def test_a_job_that_no_method_is_for(self, job: str) -> None:
        settings = ("model.quantization=Int8", "distributed.zero.stage=3")
        result = advise(job, *(part for one in settings for part in ("--set", one)))
        assert result.exit_code == 64
